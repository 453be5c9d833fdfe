// Names raw blocks as IPFS does: one file a line in, one CID a line out.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

for await (const path of createInterface({ input: process.stdin })) {
  const block = raw.encode(readFileSync(path))
  const cid = CID.createV1(raw.code, await sha256.digest(block))
  process.stdout.write(JSON.stringify({ text: cid.toString(), bytes: Buffer.from(cid.bytes).toString('hex') }) + '\n')
}
