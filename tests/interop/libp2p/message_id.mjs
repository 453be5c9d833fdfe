// PROTOCOL section 10: the first 20 bytes of SHA-256 over domain, topic and payload, the first two after their lengths.
import { createHash } from 'node:crypto'

const DOMAIN = Buffer.from('koii_p2p/gossip/1')
const length = (bytes) => Buffer.from([bytes.length >> 8, bytes.length & 255])

export const messageId = (message) => {
  const topic = Buffer.from(message.topic)
  const hash = createHash('sha256')
  for (const part of [length(DOMAIN), DOMAIN, length(topic), topic, message.data]) hash.update(part)
  return new Uint8Array(hash.digest().subarray(0, 20))
}
