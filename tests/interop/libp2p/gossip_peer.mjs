// A js-libp2p peer with GossipSub, driven by JSON lines: node gossip_peer.mjs <protocol>
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { messageId } from './message_id.mjs'
import { serve } from './serve.mjs'

const received = []

const node = await createLibp2p({
  start: false,
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    pubsub: gossipsub({
      globalSignaturePolicy: 'StrictNoSign',
      msgIdFn: messageId,
      allowPublishToZeroTopicPeers: true
    })
  }
})
const pubsub = node.services.pubsub
pubsub.protocols = [process.argv[2]] // there is no option for it
await node.start()
pubsub.addEventListener('message', ({ detail }) => received.push(createHash('sha256').update(detail.data).digest('hex')))

// The payloads of a test: its name, a number, and zeros.
const payload = (name, number, size) => {
  const data = new Uint8Array(size)
  data.set(new TextEncoder().encode(`${name} ${number} `))
  return data
}

const commands = {
  dial: async ({ address }) => { await node.dial(multiaddr(address)); return {} },
  subscribe: async ({ topic }) => { pubsub.subscribe(topic); return {} },
  publish: async ({ topic, name, count, size }) => {
    const recipients = []
    for (let number = 0; number < count; number++) {
      recipients.push((await pubsub.publish(topic, payload(name, number, size))).recipients.length)
    }
    return { recipients }
  },
  received: async () => ({ received }),
  mesh: async ({ topic }) => ({ peers: pubsub.getMeshPeers(topic) }),
  protocols: async () => ({
    streams: node.getConnections().flatMap((connection) => connection.streams.map((stream) => stream.protocol))
  }),
  connections: async () => ({ count: node.getConnections().length })
}

await serve(node, commands)
