// Drives a js-libp2p node by JSON lines: one command a line on stdin, one answer a line on stdout, until `quit`.
import readline from 'node:readline'

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')

// First it says who it is and where, with `more`; then each command is done by the function of its name.
export async function serve (node, commands, more = {}) {
  say({ id: node.peerId.toString(), address: node.getMultiaddrs()[0].toString(), ...more })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    if (command.op === 'quit') break
    try {
      say({ ok: true, ...await commands[command.op](command) })
    } catch (error) {
      say({ ok: false, error: `${error.name}: ${error.message}` })
    }
  }
  await node.stop()
  process.exit(0)
}
