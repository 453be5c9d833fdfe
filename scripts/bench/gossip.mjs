// What gossip_worker.py does, with js-libp2p: some nodes of one net, told by lines of JSON what to do.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { messageId } from './message_id.mjs'

const given = JSON.parse(process.argv[2])
const numbers = JSON.parse(process.argv[3])
const { degrees, publishers } = given
const TOPIC = 'bench'
const UNCOUNTED = 1_000_000
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)))
const now = () => Number(process.hrtime.bigint()) / 1e9
const sent = () => process._getActiveHandles().reduce((sum, handle) => sum + (handle.bytesWritten ?? 0), 0)

const latencies = []
const nodes = new Map()
let cpu, bytes

async function startOne (number) {
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
  const heard = new Set()
  node.services.pubsub.addEventListener('message', ({ detail }) => {
    const view = new DataView(detail.data.buffer, detail.data.byteOffset)
    const message = view.getUint32(0)
    if (message >= UNCOUNTED || heard.has(message) || publishers[message] === number) return
    heard.add(message)
    latencies.push(Number(process.hrtime.bigint() - view.getBigUint64(4)) / 1e6)
  })
  node.services.pubsub.subscribe(TOPIC)
  nodes.set(number, node)
  return node.getMultiaddrs()[0].toString()
}

async function publish (node, message) {
  const data = new Uint8Array(given.size)
  const view = new DataView(data.buffer)
  view.setUint32(0, message)
  view.setBigUint64(4, process.hrtime.bigint())
  await nodes.get(node).services.pubsub.publish(TOPIC, data)
}

const steps = {
  async start () {
    const addresses = []
    for (const number of numbers) addresses.push(await startOne(number))
    return { addresses }
  },
  async dial ({ links }) {
    for (const [number, address] of links) await nodes.get(number).dial(multiaddr(address))
    return {}
  },
  async warm ({ count }) {
    for (let number = 0; number < count; number++) {
      const node = number % given.nodes
      if (nodes.has(node)) await publish(node, UNCOUNTED + number)
      await sleep(20)
    }
    return {}
  },
  async mark () {
    cpu = process.cpuUsage()
    bytes = sent()
    return {}
  },
  async run ({ at, patience, quiet }) {
    await sleep((at - now()) * 1000)
    const here = [...publishers.entries()].filter(([, node]) => nodes.has(node))
    const wanted = publishers.length * nodes.size - here.length
    if (given.rate > 0) {
      for (const [message, node] of here) {
        await sleep((at + message / given.rate - now()) * 1000)
        publish(node, message)
      }
    } else {
      await Promise.all([...nodes.keys()].map(async (node) => {
        for (const [message, publisher] of here) if (publisher === node) await publish(node, message)
      }))
    }
    let newest = now()
    let count = latencies.length
    while (latencies.length < wanted && now() < at + patience) {
      await sleep(20)
      if (latencies.length > count) {
        newest = now()
        count = latencies.length
      } else if (now() > newest + quiet) break
    }
    return {}
  },
  async figures () {
    const used = process.cpuUsage(cpu)
    const kib = Number(/VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'ascii'))[1])
    return {
      latencies,
      cpu: (used.user + used.system) / 1e6,
      bytes: sent() - bytes,
      memory_mb: kib * 1024 / 1e6
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...given } = JSON.parse(line)
  process.stdout.write(JSON.stringify(await steps[name](given)) + '\n')
}
process.exit(0)
