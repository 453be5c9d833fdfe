// One case of gossip.py with js-libp2p: all nodes in this process. The case comes as JSON in argv, figures go to stdout.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { messageId } from './message_id.mjs'

const given = JSON.parse(process.argv[2])
const { degrees, messages, links, publishers } = given
const TOPIC = 'bench'
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const sent = () => process._getActiveHandles().reduce((sum, handle) => sum + (handle.bytesWritten ?? 0), 0)

const latencies = []
const publishedAt = new Map()
let delivered = 0

async function start () {
  const node = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
    connectionManager: { maxConnections: 1000, inboundConnectionThreshold: 1000 },
    services: {
      identify: identify(),
      pubsub: gossipsub({
        globalSignaturePolicy: 'StrictNoSign',
        msgIdFn: messageId,
        allowPublishToZeroTopicPeers: true,
        D: degrees.wanted,
        Dlo: degrees.low,
        Dhi: degrees.high,
        Dscore: degrees.score,
        Dout: degrees.outbound,
        Dlazy: degrees.lazy,
        idontwantMinDataSize: given.idontwant,
        // All are on one address and would hold it against each other.
        scoreParams: { IPColocationFactorWeight: 0, behaviourPenaltyWeight: 0 }
      })
    }
  })
  node.services.pubsub.addEventListener('message', ({ detail }) => {
    const number = new DataView(detail.data.buffer, detail.data.byteOffset).getUint32(0)
    const began = publishedAt.get(number)
    if (began === undefined) return
    delivered++
    latencies.push(performance.now() - began)
  })
  node.services.pubsub.subscribe(TOPIC)
  return node
}

const nodes = []
for (let number = 0; number < given.nodes; number++) nodes.push(await start())
for (const [from, to] of links) await nodes[from].dial(nodes[to].getMultiaddrs())

const publish = async (node, number, counted) => {
  const data = new Uint8Array(given.size)
  new DataView(data.buffer).setUint32(0, number)
  if (counted) publishedAt.set(number, performance.now())
  await nodes[node].services.pubsub.publish(TOPIC, data)
}

await sleep(given.settle * 1000)
for (let number = 0; number < given.warm; number++) {
  await publish(number % given.nodes, 1_000_000 + number, false)
  await sleep(20)
}
await sleep(1500)

const cpu = process.cpuUsage()
const bytes = sent()
const began = performance.now()
const wanted = messages * (given.nodes - 1)
if (given.rate > 0) {
  for (let number = 0; number < messages; number++) {
    const left = began + number * 1000 / given.rate - performance.now()
    if (left > 0) await sleep(left)
    publish(publishers[number], number, true)
  }
} else {
  await Promise.all(nodes.map(async (_, node) => {
    for (let number = 0; number < messages; number++) {
      if (publishers[number] === node) await publish(node, number, true)
    }
  }))
}
while (delivered < wanted && performance.now() - began < given.patience * 1000) await sleep(20)
const used = process.cpuUsage(cpu)
latencies.sort((a, b) => a - b)
const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))] ?? 0
process.stdout.write(JSON.stringify({
  delivered: delivered / wanted,
  p50_ms: at(0.5),
  p99_ms: at(0.99),
  cpu_ms: (used.user + used.system) / 1000 / Math.max(1, delivered),
  bytes: (sent() - bytes) / Math.max(1, delivered),
  memory_mb: process.resourceUsage().maxRSS / 1e3
}) + '\n')
process.exit(0)
