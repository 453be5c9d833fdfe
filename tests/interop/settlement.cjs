// The life of a stake on a local K2, by @solana/web3.js and docs/settlement.md alone: offsets, instructions, windows,
// codes, seeds and values are read out of that page, so that a page which says too little or something wrong fails here.
// Usage: node settlement.cjs URL PAGE    Prints what it did and what it read back as one line of JSON.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const web3 = require("@solana/web3.js");

const KOII = 1_000_000_000n;
const sha256 = (...parts) => crypto.createHash("sha256").update(Buffer.concat(parts)).digest();
const u64 = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};

// -- the page

class Page {
  constructor(text) {
    this.text = text;
    this.layouts = this.readLayouts();
    this.instructions = this.readInstructions();
    this.values = new Map(this.table("values").map(([name, value]) => [name, value]));
    this.windows = new Map(this.table("windows").map(([name, opens, closes]) => [name, { opens, closes }]));
    this.errors = new Map(this.table("errors").map(([code, name]) => [Number(code), name]));
  }

  section(name) {
    const [, rest] = this.text.split(`<!-- ${name}: made by scripts/make_settlement_page.py -->`);
    return rest.split(`<!-- end of ${name} -->`)[0];
  }

  table(name) {
    return this.rows(this.section(name)).slice(1);
  }

  rows(text) {
    return text
      .split("\n")
      .filter((line) => line.startsWith("|") && !line.startsWith("|---"))
      .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  }

  readLayouts() {
    const layouts = {};
    for (const part of this.section("accounts").split("\n**").slice(1)) {
      const [, name, size] = part.match(/^(\w+)\*\* \((\d+) bytes\)/);
      const fields = {};
      for (const [offset, bytes, kind, field] of this.rows(part).slice(1)) {
        fields[field] = { offset: Number(offset), size: Number(bytes), kind };
      }
      layouts[name] = { size: Number(size), fields };
    }
    return layouts;
  }

  readInstructions() {
    const instructions = {};
    for (const [tag, name, accounts, data] of this.table("instructions")) {
      const [fields, size] = data.split(": ");
      instructions[name] = {
        tag: Number(tag),
        size: Number(size),
        accounts: accounts.split(", ").map((one) => {
          const [, role, flags] = one.match(/^(.*?)(?: (SW|S|W))?$/);
          return { role, isSigner: (flags || "").includes("S"), isWritable: (flags || "").includes("W") };
        }),
        fields: fields.split(", ").map((one) => {
          const [, field, kind] = one.match(/^(\w+) (\w+)$/);
          return { field, bytes: kind.startsWith("u") ? Number(kind.slice(1)) / 8 : Number(kind), number: kind.startsWith("u") };
        }),
      };
    }
    return instructions;
  }

  // The word in backticks of a value.
  quoted(name, before = "") {
    return this.values.get(name).split(before + "`")[1].split("`")[0];
  }

  // A bound of a window, computed by the page's formula.
  slot(instruction, bound, terms, r, k = 0) {
    const formula = this.windows.get(instruction)[bound].replaceAll("`", "");
    const { S0, RT, SW, AW } = terms;
    return new Function("S0", "RT", "SW", "AW", "r", "k", `return ${formula};`)(S0, RT, SW, AW, r, k);
  }

  build(programId, name, accounts, values, siblings = []) {
    const { tag, size, fields, accounts: wanted } = this.instructions[name];
    const parts = fields.map(({ field, bytes, number }) => {
      const value = field === "tag" ? tag : values[field];
      const part = Buffer.alloc(bytes);
      if (number) {
        let rest = BigInt(value);
        for (let place = 0; place < bytes; place++, rest >>= 8n) part[place] = Number(rest & 255n);
        if (rest !== 0n) throw new Error(`${name}.${field} does not hold ${value}`);
      } else {
        const raw = Buffer.from(value);
        if (raw.length > bytes) throw new Error(`${name}.${field} is too long`);
        raw.copy(part);
      }
      return part;
    });
    const data = Buffer.concat(parts);
    if (data.length !== size) throw new Error(`${name} has ${data.length} bytes, the page says ${size}`);
    const keys = wanted.map(({ role, isSigner, isWritable }) => {
      if (!(role in accounts)) throw new Error(`${name} needs ${role}`);
      return { pubkey: accounts[role], isSigner, isWritable };
    });
    return new web3.TransactionInstruction({ programId, keys, data: Buffer.concat([data, ...siblings]) });
  }

  // The fields of an account or of a part of one, but for what is reserved; numbers as decimal text, keys in base58.
  decode(name, data, base = 0) {
    const found = {};
    for (const [field, { offset, size, kind }] of Object.entries(this.layouts[name].fields)) {
      const raw = data.subarray(base + offset, base + offset + size);
      if (kind === "reserved") continue;
      if (kind === "key") found[field] = new web3.PublicKey(raw).toBase58();
      else if (kind === "text") found[field] = raw.toString("utf8").replace(/\0+$/, "");
      else if (kind === "bytes") found[field] = raw.toString("hex");
      else found[field] = BigInt("0x" + Buffer.from(raw).reverse().toString("hex")).toString();
    }
    return found;
  }
}

// -- the tree of a list

const leafBytes = ({ staker, reward, slash }) => Buffer.concat([staker.toBuffer(), u64(reward), u64(slash)]);

function levelsOf(leaves) {
  const levels = [leaves.map((leaf) => sha256(Buffer.from([0]), leaf))];
  while (levels.at(-1).length > 1) {
    const below = levels.at(-1);
    const level = [];
    for (let place = 0; place < below.length; place += 2) {
      const alone = place + 1 === below.length;
      level.push(alone ? below[place] : sha256(Buffer.from([1]), below[place], below[place + 1]));
    }
    levels.push(level);
  }
  return levels;
}

function proofOf(levels, place) {
  const siblings = [];
  let directions = 0;
  for (const level of levels.slice(0, -1)) {
    const neighbour = place ^ 1;
    if (neighbour < level.length) {
      if (neighbour < place) directions |= 1 << siblings.length;
      siblings.push(level[neighbour]);
    }
    place >>= 1;
  }
  return { siblings, directions };
}

// The page's own example, made again.
function treeExample(page) {
  const text = page.section("tree");
  const leaves = [1, 2, 3].map((number) =>
    leafBytes({ staker: new web3.PublicKey(Buffer.alloc(32, number)), reward: number * 10, slash: number - 1 }),
  );
  const levels = levelsOf(leaves);
  const rows = page.rows(text).slice(1);
  const same = rows.every(([leaf, directions, siblings], place) => {
    const proof = proofOf(levels, place);
    return (
      leaf === "`" + levels[0][place].toString("hex") + "`" &&
      Number(directions) === proof.directions &&
      siblings === proof.siblings.map((one) => "`" + one.toString("hex") + "`").join(", ")
    );
  });
  return same && rows.length === 3 && text.includes("`" + levels.at(-1)[0].toString("hex") + "`");
}

// -- the chain

async function main() {
  const [url, file] = process.argv.slice(2);
  const page = new Page(fs.readFileSync(file, "utf8"));
  const connection = new web3.Connection(url, "confirmed");
  const programId = new web3.PublicKey(page.quoted("program id on the local K2"));
  const system = new web3.PublicKey(page.quoted("system"));
  const derive = (...seeds) => web3.PublicKey.findProgramAddressSync(seeds, programId)[0];
  const pause = () => new Promise((resolve) => setTimeout(resolve, 20));

  const until = async (slot) => {
    while ((await connection.getSlot("confirmed")) < slot) await pause();
  };

  // Sends without a preflight, so that what the program refuses lands as well; its slot, and the name of its error.
  const send = async (instruction, payer, signers = []) => {
    const transaction = new web3.Transaction().add(instruction);
    transaction.feePayer = payer.publicKey;
    transaction.recentBlockhash = (await connection.getLatestBlockhash()).blockhash;
    transaction.sign(payer, ...signers);
    const signature = await connection.sendRawTransaction(transaction.serialize(), { skipPreflight: true });
    for (let tries = 0; tries < 1000; tries++, await pause()) {
      const status = (await connection.getSignatureStatus(signature)).value;
      if (status === null || !["confirmed", "finalized"].includes(status.confirmationStatus)) continue;
      const code = status.err === null ? null : status.err.InstructionError[1].Custom;
      return { signature, slot: status.slot, error: code === null ? null : page.errors.get(code) };
    }
    throw new Error(`${signature} did not land`);
  };
  const must = async (...given) => {
    const landed = await send(...given);
    if (landed.error !== null) throw new Error(landed.error);
    return landed;
  };
  const wealthy = async (amount) => {
    const wallet = web3.Keypair.generate();
    await connection.requestAirdrop(wallet.publicKey, Number(amount));
    while ((await connection.getBalance(wallet.publicKey)) === 0) await pause();
    return wallet;
  };

  const seen = { tree: treeExample(page), refused: {} };
  const creator = await wealthy(100n * KOII);
  const claimer = await wealthy(KOII);
  const [first, second, cheat] = [0, 1, 2].map(() => web3.Keypair.generate());
  const beneficiaries = new Map([first, second, cheat].map((one) => [one, web3.Keypair.generate().publicKey]));

  const nonce = 11n;
  const task = derive(Buffer.from("task"), creator.publicKey.toBuffer(), u64(nonce));
  const vault = derive(Buffer.from("vault"), task.toBuffer());
  const stakeOf = (staker) => derive(Buffer.from("stake"), task.toBuffer(), staker.publicKey.toBuffer());

  const round = 1;
  const attempt = 0;
  const terms = { S0: Math.max(0, (await connection.getSlot("confirmed")) - 10), RT: 70, SW: 30, AW: 30 };
  const bounty = 3n * KOII;
  const create = page.build(programId, "CreateTask", { creator: creator.publicKey, task, vault, system }, {
    nonce,
    name: "from web3.js",
    program: "docs/settlement.md",
    starting_slot: terms.S0,
    round_time: terms.RT,
    submission_window: terms.SW,
    audit_window: terms.AW,
    bounty_per_round: bounty,
    minimum_stake: 2n * KOII,
    slash_basis_points: 7000,
    allowed_failed_distributions: 0,
    audit: Buffer.from(page.quoted("audit, usual"), "hex"),
  });
  await must(create, creator);
  seen.refused.again = (await send(create, creator)).error;
  const fund = { funder: creator.publicKey, task, vault, system };
  await must(page.build(programId, "Fund", fund, { amount: 20n * KOII }), creator);
  const stake = async (one, amount) => {
    const accounts = { payer: creator.publicKey, staker: one.publicKey, task, stake: stakeOf(one), system };
    const values = { amount, beneficiary: beneficiaries.get(one).toBuffer() };
    return must(page.build(programId, "Stake", accounts, values), creator, [one]);
  };
  for (const one of [first, second, cheat]) await stake(one, 5n * KOII);
  await stake(second, KOII);

  const digest = sha256(Buffer.from("what this round came to"));
  const commit = (one) =>
    page.build(
      programId,
      "AnchorCommitment",
      { staker: one.publicKey, task, stake: stakeOf(one) },
      { attempt, round, digest },
    );
  await until(page.slot("AnchorCommitment, k = 0", "opens", terms, round));
  const committed = await must(commit(first), creator, [first]);
  seen.refused.secondCommitment = (await send(commit(second), creator, [second])).error;

  const amounts = [
    { staker: first.publicKey, reward: 2_000_000_001n, slash: 0n },
    { staker: second.publicKey, reward: 1_234_567_890n, slash: 0n },
    { staker: cheat.publicKey, reward: 0n, slash: (5n * KOII * 7000n) / 10_000n },
  ].sort((one, other) => Buffer.compare(one.staker.toBuffer(), other.staker.toBuffer()));
  const levels = levelsOf(amounts.map(leafBytes));
  const root = levels.at(-1)[0];
  const totals = {
    reward_total: amounts.reduce((sum, one) => sum + one.reward, 0n),
    slash_total: amounts.reduce((sum, one) => sum + one.slash, 0n),
  };
  await until(page.slot("AnchorList, k = 0", "opens", terms, round));
  const list = page.build(
    programId,
    "AnchorList",
    { staker: second.publicKey, task, stake: stakeOf(second), vault },
    { attempt, round, root, ...totals },
  );
  const listed = await must(list, creator, [second]);

  const withLeaf = (name, one, change = (siblings) => siblings) => {
    const place = amounts.findIndex(({ staker }) => staker.equals(one.publicKey));
    const { siblings, directions } = proofOf(levels, place);
    const accounts = {
      staker: one.publicKey,
      task,
      vault,
      stake: stakeOf(one),
      beneficiary: beneficiaries.get(one),
    };
    const values = { round, leaf: leafBytes(amounts[place]), directions, siblings: siblings.length };
    return page.build(programId, name, accounts, values, change(siblings));
  };
  seen.refused.early = (await send(withLeaf("Settle", first), creator)).error;
  await until(page.slot("Settle, Withdraw with its leaf", "opens", terms, round));
  await must(withLeaf("Settle", first), creator); // a reward
  await must(withLeaf("Settle", cheat), creator); // a slash
  await must(withLeaf("Settle", second), claimer); // a claim, sent by somebody else
  const forged = ([sibling, ...rest]) => [sha256(sibling), ...rest];
  seen.refused.forged = (await send(withLeaf("Settle", first, forged), creator)).error;
  seen.beneficiaries = [first, second, cheat].map((one) => beneficiaries.get(one).toBase58());
  seen.rewards = [];
  for (const one of [first, second, cheat]) {
    seen.rewards.push(await connection.getBalance(beneficiaries.get(one)));
  }

  const ask = page.build(
    programId,
    "RequestUnstake",
    { staker: first.publicKey, task, stake: stakeOf(first) },
    {},
  );
  const asked = await must(ask, creator, [first]);
  seen.refused.locked = (await send(withLeaf("Withdraw", first), claimer)).error;
  const period = Math.floor((asked.slot - terms.S0) / terms.RT);
  // Three round times, and the audit of the round of the request, as no later list is settled.
  const over = page.slot("Settle, Withdraw with its leaf", "opens", terms, period);
  await until(Math.max(asked.slot + 3 * terms.RT, over));
  await must(withLeaf("Withdraw", first), claimer);
  seen.withdrawn = (await connection.getBalance(beneficiaries.get(first))) - seen.rewards[0];
  const update = { creator: creator.publicKey, task, successor: task };
  await must(page.build(programId, "UpdateTask", update, { metadata: "read from a page" }), creator);

  // What there is now, and the chain of heads over what was sent.
  const account = await connection.getAccountInfo(task);
  seen.task = { address: task.toBase58(), size: account.data.length, ...page.decode("task", account.data) };
  seen.newest = page.decode("list", account.data, page.layouts.task.fields.newest_list.offset);
  const [, base, size, ring] = page.values.get("rounds").match(/at (\d+) \+ (\d+) \* \(r mod (\d+)\)/).map(Number);
  seen.round = page.decode("round", account.data, base + size * (round % ring));
  const vaultAccount = await connection.getAccountInfo(vault);
  const rent = await connection.getMinimumBalanceForRentExemption(page.layouts.vault.size);
  seen.vault = { holds: vaultAccount.lamports - rent, ...page.decode("vault", vaultAccount.data) };
  const found = await connection.getProgramAccounts(programId, {
    filters: [
      { dataSize: page.layouts.stake.size },
      { memcmp: { offset: page.layouts.stake.fields.task.offset, bytes: task.toBase58() } },
    ],
  });
  const [, from, step, places] = page.values.get("checkpoints").match(/at (\d+) \+ (\d+) \* \(.* mod (\d+)\)/).map(Number);
  seen.stakes = found.map(({ account: { data } }) => {
    const one = page.decode("stake", data);
    const newest = (Number(one.checkpoint_count) - 1) % places;
    return { ...one, newest: page.decode("checkpoint", data, from + step * newest) };
  });
  const record = (name, by, slot, hash, reward_total = 0n, slash_total = 0n) => {
    const { size: bytes, fields } = page.layouts.anchor_record;
    const written = Buffer.alloc(bytes);
    written.writeUInt8(page.instructions[name].tag, fields.tag.offset);
    written.writeUInt8(attempt, fields.attempt.offset);
    written.writeBigUInt64LE(BigInt(round), fields.round.offset);
    written.writeBigUInt64LE(BigInt(slot), fields.slot.offset);
    by.publicKey.toBuffer().copy(written, fields.by.offset);
    hash.copy(written, fields.digest.offset);
    written.writeBigUInt64LE(reward_total, fields.reward_total.offset);
    written.writeBigUInt64LE(slash_total, fields.slash_total.offset);
    return written;
  };
  let head = Buffer.alloc(32);
  head = sha256(head, record("AnchorCommitment", first, committed.slot, digest));
  head = sha256(head, record("AnchorList", second, listed.slot, root, totals.reward_total, totals.slash_total));
  seen.head = new web3.PublicKey(head).toBase58();
  seen.magics = ["task", "vault", "stake"].map((name) => Buffer.from(page.quoted("magic", name + " ")).toString("hex"));
  seen.stakers = [first, second, cheat].map((one) => one.publicKey.toBase58());
  seen.slots = { committed: committed.slot, listed: listed.slot, asked: asked.slot };
  seen.terms = terms;
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
