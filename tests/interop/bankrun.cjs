// Replays recorded cases in the Solana 1.18 runtime of solana-bankrun.
// Usage: node bankrun.cjs PROGRAM CASES OUTCOMES    (PROGRAM is settlement.so)
// Every case stands alone: its accounts and clock are put there, its transaction is signed for a blockhash of this
// chain that is fetched for it, executed, and every account that it names is read back.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const web3 = require("@solana/web3.js");
const { Clock, Rent, start } = require("solana-bankrun");

const NOWHERE = web3.SystemProgram.programId;
const OLD_LOADER = new web3.PublicKey("BPFLoader2111111111111111111111111111111111");

function stateId(account) {
  if (account === null) return null;
  const lamports = Buffer.alloc(8);
  lamports.writeBigUInt64LE(BigInt(account.lamports));
  return crypto
    .createHash("sha256")
    .update(lamports)
    .update(account.owner.toBuffer())
    .update(account.data)
    .digest("hex");
}

async function main() {
  const [programFile, casesFile, outcomesFile] = process.argv.slice(2);
  const recorded = JSON.parse(fs.readFileSync(casesFile, "utf8"));
  // Programs are accounts like others here: start() would take them by name, and sometimes loses the name and hangs.
  const context = await start([], []);
  const client = context.banksClient;
  const usualRent = await client.getRent();
  const programs = { ...recorded.programs, [recorded.program]: fs.readFileSync(programFile).toString("base64") };
  for (const [key, code] of Object.entries(programs)) {
    const data = Buffer.from(code, "base64");
    const account = { lamports: 1e9, data, owner: OLD_LOADER, executable: true, rentEpoch: 0 };
    context.setAccount(new web3.PublicKey(key), account);
  }

  const put = (key, name) => {
    const state = name === null ? { lamports: 0, owner: NOWHERE.toBase58(), data: "" } : recorded.states[name];
    context.setAccount(new web3.PublicKey(key), {
      lamports: state.lamports,
      data: Buffer.from(state.data, "base64"),
      owner: new web3.PublicKey(state.owner),
      executable: false,
      rentEpoch: 0,
    });
  };

  const outcomes = { runtime: "solana-bankrun " + require("solana-bankrun/package.json").version, cases: [] };
  for (const one of recorded.cases) {
    context.setClock(new Clock(BigInt(one.slot), 0n, 0n, 0n, 0n));
    if (one.rent !== null) {
      const rent = Buffer.from(one.rent, "hex");
      context.setRent(new Rent(rent.readBigUInt64LE(0), rent.readDoubleLE(8), rent[16]));
    }
    for (const [key, name] of Object.entries(one.before)) put(key, name);

    const message = web3.Message.from(Buffer.from(one.message, "base64"));
    [message.recentBlockhash] = await client.getLatestBlockhash();
    const transaction = new web3.VersionedTransaction(message);
    transaction.sign(one.signers.map((seed) => web3.Keypair.fromSeed(Buffer.from(seed, "hex"))));
    const { result, meta } = await client.tryProcessTransaction(transaction);

    const outcome = { err: result, units: meta === null ? null : Number(meta.computeUnitsConsumed), after: {} };
    for (const key of Object.keys(one.before)) {
      const account = await client.getAccount(new web3.PublicKey(key));
      const name = stateId(account);
      outcome.after[key] = name;
      if (name !== null && !(name in recorded.states)) {
        const { lamports, owner, data } = account;
        outcome.unknown = {
          ...outcome.unknown,
          [name]: { lamports, owner: owner.toBase58(), data: Buffer.from(data).toString("base64") },
        };
      }
    }
    outcomes.cases.push(outcome);
    if (one.rent !== null) context.setRent(usualRent);
  }
  fs.writeFileSync(outcomesFile, JSON.stringify(outcomes));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
