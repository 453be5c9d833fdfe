// A js-libp2p peer with its kad-dht, driven by JSON lines: node dht_peer.mjs
// Values under /koii/ are taken as they are told to be valid: those that a test names with `allow`.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import { serve } from './serve.mjs'

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'hex'))
const allowed = []

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    ping: ping(),
    // Ours let a peer go that has no gossip.
    pubsub: gossipsub({ globalSignaturePolicy: 'StrictNoSign' }),
    dht: kadDHT({
      protocol: '/ipfs/kad/1.0.0',
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      initialQuerySelfInterval: 100,
      validators: {
        koii: async (key, value) => { if (!allowed.includes(hex(value))) throw new Error('not signed') }
      },
      selectors: {
        koii: (key, values) => values.map((value) => allowed.indexOf(hex(value))).reduce((best, at, index, all) => at > all[best] ? index : best, 0)
      }
    })
  }
})

const commands = {
  dial: async ({ address }) => { await node.dial(multiaddr(address)); return {} },
  allow: async ({ value }) => { allowed.push(value); return {} },
  table: async () => ({ size: node.services.dht.routingTable.size }),
  put: async ({ key, value }) => {
    let taken = 0
    for await (const event of node.services.dht.put(bytes(key), bytes(value))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') taken++
    }
    return { taken }
  },
  get: async ({ key }) => {
    for await (const event of node.services.dht.get(bytes(key))) {
      if (event.name === 'VALUE') return { value: hex(event.value), from: event.from.toString() }
    }
    return { value: null }
  },
  provide: async ({ cid }) => {
    for await (const event of node.services.dht.provide(CID.decode(bytes(cid)))) void event
    return {}
  },
  providers: async ({ cid }) => {
    const found = new Set()
    for await (const event of node.services.dht.findProviders(CID.decode(bytes(cid)))) {
      if (event.name === 'PROVIDER') event.providers.forEach((provider) => found.add(provider.id.toString()))
    }
    return { providers: [...found] }
  },
  find: async ({ id }) => {
    const { peerIdFromString } = await import('@libp2p/peer-id')
    for await (const event of node.services.dht.findPeer(peerIdFromString(id))) {
      if (event.name === 'FINAL_PEER') return { addresses: event.peer.multiaddrs.map((address) => address.toString()) }
    }
    return { addresses: [] }
  },
  forget: async () => {
    for (const connection of node.getConnections()) await connection.close()
    return {}
  },
  connections: async () => ({ count: node.getConnections().length })
}

await serve(node, commands)
