// Drives a local K2 with @solana/web3.js and prints what it saw as one line of JSON.
// Usage: node web3.cjs URL ADDRESS SIGNATURE    (an address and a transaction that already exist)
"use strict";
const web3 = require("@solana/web3.js");

async function main() {
  const [url, address, signature] = process.argv.slice(2);
  const connection = new web3.Connection(url, "confirmed"); // its WebSocket port is the port + 1
  const seen = {};

  const known = new web3.PublicKey(address);
  seen.genesis = await connection.getGenesisHash();
  seen.balance = await connection.getBalance(known);
  const info = await connection.getAccountInfo(known);
  seen.account = { lamports: info.lamports, owner: info.owner.toBase58() };
  const found = await connection.getTransaction(signature, { maxSupportedTransactionVersion: 0 });
  seen.transaction = { slot: found.slot, fee: found.meta.fee, err: found.meta.err };
  seen.history = (await connection.getSignaturesForAddress(known)).map((line) => line.signature);

  const payer = web3.Keypair.generate();
  const receiver = web3.Keypair.generate();
  const airdrop = await connection.requestAirdrop(payer.publicKey, 2 * web3.LAMPORTS_PER_SOL);
  const latest = await connection.getLatestBlockhash();
  await connection.confirmTransaction({ signature: airdrop, ...latest }, "confirmed");

  const changes = [];
  const subscription = connection.onAccountChange(receiver.publicKey, (account) => changes.push(account.lamports), {
    commitment: "confirmed",
  });
  // K2 tells of changes after it has taken the subscription, which web3.js sends when it comes to it.
  await new Promise((resolve) => {
    connection._onSubscriptionStateChange(subscription, (state) => state === "subscribed" && resolve());
  });
  const transfer = new web3.Transaction().add(
    web3.SystemProgram.transfer({
      fromPubkey: payer.publicKey,
      toPubkey: receiver.publicKey,
      lamports: 123456789,
    }),
  );
  seen.sent = await web3.sendAndConfirmTransaction(connection, transfer, [payer], { commitment: "confirmed" });
  seen.receiver = receiver.publicKey.toBase58();
  seen.receiverBalance = await connection.getBalance(receiver.publicKey);
  seen.payerBalance = await connection.getBalance(payer.publicKey);
  for (let waited = 0; changes.length === 0 && waited < 5000; waited += 50) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  seen.accountChanges = changes;
  await connection.removeAccountChangeListener(subscription);

  const versioned = new web3.VersionedTransaction(
    new web3.TransactionMessage({
      payerKey: payer.publicKey,
      recentBlockhash: (await connection.getLatestBlockhash()).blockhash,
      instructions: [
        web3.ComputeBudgetProgram.setComputeUnitLimit({ units: 20000 }),
        web3.SystemProgram.transfer({ fromPubkey: payer.publicKey, toPubkey: known, lamports: 1 }),
      ],
    }).compileToV0Message(),
  );
  versioned.sign([payer]);
  seen.simulatedError = (await connection.simulateTransaction(versioned)).value.err;
  seen.fee = (await connection.getFeeForMessage(versioned.message)).value;
  const versionedSignature = await connection.sendTransaction(versioned);
  const again = await connection.getLatestBlockhash();
  const confirmed = await connection.confirmTransaction({ signature: versionedSignature, ...again }, "confirmed");
  seen.versionedError = confirmed.value.err;
  seen.version = (await connection.getTransaction(versionedSignature, { maxSupportedTransactionVersion: 0 })).version;
  const block = await connection.getBlock(
    (await connection.getSignatureStatus(versionedSignature)).value.slot,
    { maxSupportedTransactionVersion: 0 },
  );
  seen.blockHolds = block.transactions.some((one) => one.transaction.signatures[0] === versionedSignature);

  try {
    const tooMuch = new web3.Transaction().add(
      web3.SystemProgram.transfer({
        fromPubkey: payer.publicKey,
        toPubkey: receiver.publicKey,
        lamports: 1000 * web3.LAMPORTS_PER_SOL,
      }),
    );
    await web3.sendAndConfirmTransaction(connection, tooMuch, [payer]);
    seen.tooMuch = "accepted";
  } catch (error) {
    seen.tooMuch = { name: error.constructor.name, logs: (error.logs || []).length };
  }
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
