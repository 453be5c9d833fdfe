"use strict";
// A client of a task's REST that has nothing but docs/writing-tasks.md and Node's own library: asks, checks the stamp,
// and signs a request. Usage: node rest.cjs URL TASK SEED_HEX PATH_TO_GET PATH_TO_PUT BODY; prints JSON.
const crypto = require("node:crypto");
const http = require("node:http");

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function fromBase58(text) {
  let number = 0n;
  for (const letter of text) number = number * 58n + BigInt(ALPHABET.indexOf(letter));
  const hex = number.toString(16);
  const bytes = Buffer.from(hex.length % 2 ? "0" + hex : hex, "hex");
  const zeros = text.match(/^1*/)[0].length;
  return Buffer.concat([Buffer.alloc(zeros), number ? bytes : Buffer.alloc(0)]);
}

function toBase58(bytes) {
  let number = BigInt("0x" + (bytes.toString("hex") || "0"));
  let text = "";
  for (; number; number /= 58n) text = ALPHABET[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte) break;
    text = "1" + text;
  }
  return text;
}

const sha256 = (...parts) => crypto.createHash("sha256").update(Buffer.concat(parts)).digest();
const uint = (number, size) => Buffer.from(BigInt(number).toString(16).padStart(2 * size, "0"), "hex");
const requestHash = (method, target, body) => sha256(Buffer.from(`${method} ${target}\n`), body);
const publicKey = (raw) =>
  crypto.createPublicKey({ key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]), format: "der", type: "spki" });
const secretKey = (seed) =>
  crypto.createPrivateKey({
    key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]), format: "der", type: "pkcs8",
  });

function ask(base, method, target, body, headers) {
  return new Promise((resolve, reject) => {
    const url = new URL(base);
    const request = http.request(
      { host: url.hostname, port: url.port, method, path: target, headers: { "content-length": body.length, ...headers } },
      (reply) => {
        const parts = [];
        reply.on("data", (part) => parts.push(part));
        reply.on("end", () => resolve({ status: reply.statusCode, headers: reply.headers, body: Buffer.concat(parts) }));
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

function check(task, method, target, body, reply) {
  const said = (name) => reply.headers[`koii-${name}`];
  const message = Buffer.concat([
    Buffer.from("koii-p2p/task-reply/1", "ascii"), fromBase58(task), uint(said("round"), 8), uint(said("slot"), 8),
    uint(reply.status, 2), requestHash(method, target, body), sha256(reply.body),
  ]);
  return {
    good: crypto.verify(null, message, publicKey(fromBase58(said("key"))), fromBase58(said("signature"))),
    key: said("key"), slot: Number(said("slot")), round: Number(said("round")), status: reply.status,
    body: reply.body.toString(), bytes: message.length,
  };
}

async function main([base, task, seed, toGet, toPut, text]) {
  const nothing = Buffer.alloc(0);
  const got = check(task, "GET", toGet, nothing, await ask(base, "GET", toGet, nothing, {}));
  const own = secretKey(Buffer.from(seed, "hex"));
  const key = crypto.createPublicKey(own).export({ format: "der", type: "spki" }).subarray(12);
  const body = Buffer.from(text);
  const message = Buffer.concat([
    Buffer.from("koii-p2p/task-request/1", "ascii"), fromBase58(task), fromBase58(got.key), uint(got.slot, 8),
    requestHash("PUT", toPut, body),
  ]);
  const headers = {
    "koii-key": toBase58(key), "koii-slot": String(got.slot), "koii-signature": toBase58(crypto.sign(null, message, own)),
  };
  const put = check(task, "PUT", toPut, body, await ask(base, "PUT", toPut, body, headers));
  console.log(JSON.stringify({ got, put, key: toBase58(key) }));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
