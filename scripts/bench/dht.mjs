// A net of js-libp2p nodes with kad-dht in one process: node dht.mjs <nodes> <operations> <bytes>
// Prints one JSON object: for each operation its latencies in ms and the CPU it took in ms.
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const READERS = 4 // clients that hold nothing, from which is read
const [nodes, operations, size] = process.argv.slice(2).map(Number)
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const digest = (text) => createHash('sha256').update(text).digest()
const key = (number) => new TextEncoder().encode('/bench/' + digest(`value ${number}`).toString('hex'))
const value = (number) => new Uint8Array(size).fill(number % 256)
const cid = (number) => CID.createV1(0x55, Digest.create(0x12, digest(`content ${number}`)))

const net = []
for (let number = 0; number < nodes + READERS; number++) {
  net.push(await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
    services: {
      identify: identify(),
      ping: ping(),
      dht: kadDHT({
        protocol: '/ipfs/kad/1.0.0',
        clientMode: number >= nodes,
        peerInfoMapper: passthroughMapper,
        initialQuerySelfInterval: 500,
        validators: { bench: async () => {} },
        selectors: { bench: () => 0 }
      })
    }
  }))
}
for (let number = 1; number < nodes + READERS; number++) {
  const before = Math.min(number, nodes)
  for (let back = 1; back <= 4 && back <= before; back++) {
    await net[number].dial(net[before - back].getMultiaddrs())
  }
}
// Settled is a net in which no table has grown for three seconds.
const ends = Date.now() + 60000
const known = () => net.reduce((sum, node) => sum + node.services.dht.routingTable.size, 0)
for (let before = -1, now = known(); Date.now() < ends && now !== before; before = now, now = known()) await sleep(3000)

const result = { tables: Math.min(...net.map((node) => node.services.dht.routingTable.size)) }
const operation = {
  put: async (node, number) => { for await (const event of node.services.dht.put(key(number), value(number))) void event; return true },
  get: async (node, number) => {
    for await (const event of node.services.dht.get(key(number))) if (event.name === 'VALUE') return true
    return false
  },
  provide: async (node, number) => { for await (const event of node.services.dht.provide(cid(number))) void event; return true },
  find: async (node, number) => {
    for await (const event of node.services.dht.findProviders(cid(number))) {
      if (event.name === 'PROVIDER' && event.providers.length > 0) return true
    }
    return false
  }
}
for (const [name, work] of Object.entries(operation)) {
  const reads = name === 'get' || name === 'find'
  const [first, count] = reads ? [nodes, READERS] : [0, nodes]
  for (let number = 0; number < 3; number++) await work(net[first + number], reads ? number : operations + number)
  const latencies = []
  let done = 0
  const cpu = process.cpuUsage()
  for (let number = 0; number < operations; number++) {
    const began = performance.now()
    done += await work(net[first + number % count], number)
    latencies.push(performance.now() - began)
  }
  const used = process.cpuUsage(cpu)
  result[name] = { latencies, cpu_ms: (used.user + used.system) / 1000 / operations, done: done / operations }
}
process.stdout.write(JSON.stringify(result) + '\n')
process.exit(0)
