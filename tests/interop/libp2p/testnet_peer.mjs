// A js-libp2p peer in a task's net, driven by JSON lines: node testnet_peer.mjs <genesis> <task>, both in hex.
// It reads and writes records by koii_p2p/records/records.cddl alone: CBOR by cborg, signatures by Node's crypto.
import { createHash, createPublicKey, verify } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { multiaddr } from '@multiformats/multiaddr'
import { decode, encode } from 'cborg'
import { createLibp2p } from 'libp2p'
import { messageId } from './message_id.mjs'
import { serve } from './serve.mjs'

const [genesis, task] = process.argv.slice(2).map((text) => Buffer.from(text, 'hex'))
const PRESENCE = 9
const SIGN1 = 0xd2 // tag 18 in one byte
const ED25519_SPKI = Buffer.from('302a300506032b6570032100', 'hex') // RFC 8410: what stands before the 32 bytes of a key
const hex = (bytes) => Buffer.from(bytes).toString('hex')

const privateKey = await generateKeyPair('Ed25519')
const node = await createLibp2p({
  privateKey,
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({
      globalSignaturePolicy: 'StrictNoSign',
      msgIdFn: messageId,
      allowPublishToZeroTopicPeers: true,
      scoreParams: { IPColocationFactorWeight: 0 } // all nodes of a testnet have one address
    })
  }
})
const pubsub = node.services.pubsub
const raws = new Map()
pubsub.addEventListener('message', ({ detail }) => raws.set(hex(createHash('sha256').update(detail.data).digest()), detail))

const toBeSigned = (header, kind, payload) =>
  encode(['Signature1', header, Buffer.concat([Buffer.from('koii-p2p/1'), genesis, task, Buffer.from([kind])]), payload])

// What a record says, and whether its author signed it for this chain and task.
const read = (raw) => {
  if (raw[0] !== SIGN1) throw new Error('no COSE_Sign1')
  const [header, unprotected, payload, signature] = decode(raw.subarray(1), { useMaps: true })
  if (unprotected.size !== 0) throw new Error('something is unprotected')
  const author = decode(header, { useMaps: true }).get(4)
  const fields = decode(payload, { useMaps: true })
  const key = createPublicKey({ key: Buffer.concat([ED25519_SPKI, author]), format: 'der', type: 'spki' })
  const good = verify(null, toBeSigned(header, fields.get(0), payload), key, signature)
  return { kind: fields.get(0), task: hex(fields.get(1)), round: fields.get(2), author: hex(author), good }
}

const presence = async (slot, round) => {
  const payload = encode(new Map([
    [0, PRESENCE], [1, task], [2, round], [3, slot], [4, slot],
    [8, [node.getMultiaddrs()[0].toString().split('/p2p/')[0]]], [9, 0], [10, 'js-libp2p'], [11, 0]
  ]))
  const header = encode(new Map([[1, -8], [4, privateKey.publicKey.raw]]))
  const signature = await privateKey.sign(toBeSigned(header, PRESENCE, payload))
  return Buffer.concat([Buffer.from([SIGN1]), encode([header, new Map(), payload, signature])])
}

const publish = async (topic, raw) => {
  const { recipients } = await pubsub.publish(topic, raw)
  return { id: hex(createHash('sha256').update(raw).digest()), recipients: recipients.length }
}

const commands = {
  dial: async ({ address }) => {
    const connection = await node.dial(multiaddr(address))
    return { muxer: connection.multiplexer, encryption: connection.encryption }
  },
  ping: async ({ address }) => ({ ms: await node.services.ping.ping(multiaddr(address)) }),
  known: async ({ id }) => {
    const peer = (await node.peerStore.all()).find((peer) => peer.id.toString() === id)
    const agent = peer?.metadata.get('AgentVersion')
    return { protocols: peer?.protocols ?? [], agent: agent === undefined ? '' : new TextDecoder().decode(agent) }
  },
  subscribe: async ({ topic }) => { pubsub.subscribe(topic); return {} },
  mesh: async ({ topic }) => ({ peers: pubsub.getMeshPeers(topic) }),
  records: async () => ({
    records: [...raws].map(([id, detail]) => ({ id, topic: detail.topic, ...read(detail.data) }))
  }),
  present: async ({ topic, slot, round }) => publish(topic, await presence(slot, round)),
  forge: async ({ topic, slot, round, count }) => {
    const sent = []
    for (let number = 0; number < count; number++) {
      const raw = await presence(slot + number, round)
      raw[raw.length - 1] ^= 1
      sent.push(await publish(topic, raw))
    }
    return { sent }
  },
  connections: async () => ({ count: node.getConnections().length })
}

await serve(node, commands, { key: hex(privateKey.publicKey.raw) })
