// A js-libp2p peer driven by JSON lines: one command per line on stdin, one answer per line on stdout.
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { serve } from './serve.mjs'

const ECHO = '/interop/echo/1'
const PIECE = 32 * 1024
const bytes = (size) => Uint8Array.from({ length: size }, (_, index) => index % 251)

async function send (stream, data) {
  for (let at = 0; at < data.length; at += PIECE) {
    if (!stream.send(data.subarray(at, at + PIECE))) await stream.onDrain()
  }
}

async function receive (stream) {
  const hash = createHash('sha256')
  let size = 0
  for await (const piece of stream) {
    const data = piece instanceof Uint8Array ? piece : piece.subarray()
    hash.update(data)
    size += data.length
  }
  return { size, sha256: hash.digest('hex') }
}

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  services: { identify: identify(), ping: ping() }
})
await node.handle(ECHO, async (stream) => {
  try {
    for await (const piece of stream) {
      if (!stream.send(piece)) await stream.onDrain()
    }
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
})

const commands = {
  dial: async ({ address }) => {
    const connection = await node.dial(multiaddr(address))
    return { muxer: connection.multiplexer, encryption: connection.encryption }
  },
  ping: async ({ address }) => ({ ms: await node.services.ping.ping(multiaddr(address)) }),
  echo: async ({ address, size }) => {
    const stream = await node.dialProtocol(multiaddr(address), ECHO)
    const [, received] = await Promise.all([send(stream, bytes(size)).then(() => stream.close()), receive(stream)])
    return received
  },
  many: async ({ address, count }) => {
    for (let number = 0; number < count; number++) {
      const stream = await node.dialProtocol(multiaddr(address), ECHO)
      await send(stream, bytes(100))
      await stream.close()
      const received = await receive(stream)
      if (received.size !== 100) throw new Error(`stream ${number} brought ${received.size} bytes`)
    }
    return { count }
  },
  abort: async ({ address }) => {
    const stream = await node.dialProtocol(multiaddr(address), ECHO)
    await send(stream, bytes(1000))
    stream.abort(new Error('on purpose'))
    return {}
  },
  known: async ({ id }) => {
    const peer = (await node.peerStore.all()).find((peer) => peer.id.toString() === id)
    return { protocols: peer?.protocols ?? [] }
  },
  connections: async () => ({ count: node.getConnections().length })
}

await serve(node, commands)
