/**
 * The other side of `slow-senders-do-not-disturb`: a process that holds as many connections as it is told to a receiver, sending headers
 * and bodies a byte at a time, and a few that send bodies without an end. Whoever is cut comes back. Says `crowded` once all stand.
 *
 *   node slow-senders.ts <port> <slow connections> <endless bodies>
 */
import { connect, type Socket } from 'node:net';

const [port = 0, slow = 0, endless = 0] = process.argv.slice(2).map(Number);
const BYTE_EVERY_MS = 250;
const AGAIN_AFTER_MS = 200;
const PART = `10000\r\n${'x'.repeat(0x1_0000)}\r\n`;
const REQUEST = 'POST /slack/events HTTP/1.1\r\nhost: x\r\n';
/** In form, so that the body has to be read before anybody can tell. */
const forged = () =>
  `x-slack-request-timestamp: ${Math.floor(Date.now() / 1_000)}\r\nx-slack-signature: v0=${'0'.repeat(64)}\r\n`;

/** What each sends at once, and what it goes on with. */
const KINDS: readonly (() => { readonly first: string; readonly drop: string })[] = [
  () => ({ first: REQUEST, drop: 'x' }),
  () => ({ first: `${REQUEST}${forged()}content-length: 1000000\r\n\r\n`, drop: 'x' }),
  () => ({ first: `${REQUEST}${forged()}transfer-encoding: chunked\r\n\r\n`, drop: '1\r\nx\r\n' }),
  () => ({ first: '', drop: '' }),
];

let standing = 0;
const dripping = new Map<Socket, string>();

function keep(open: () => Socket): void {
  let counted = false;
  const again = (): void => {
    const socket = open();
    socket.once('connect', () => {
      if (counted) return;
      counted = true;
      standing += 1;
      if (standing === slow + endless) process.stdout.write('crowded\n');
    });
    socket.on('error', () => {});
    socket.resume();
    socket.once('close', () => {
      dripping.delete(socket);
      setTimeout(again, AGAIN_AFTER_MS);
    });
  };
  again();
}

for (let index = 0; index < slow; index += 1)
  keep(() => {
    const { first, drop } = KINDS[index % KINDS.length]?.() ?? { first: '', drop: '' };
    const socket = connect({ port, host: '127.0.0.1' });
    socket.write(first);
    if (drop !== '') dripping.set(socket, drop);
    return socket;
  });
setInterval(() => {
  for (const [socket, drop] of dripping) if (socket.writable) socket.write(drop);
}, BYTE_EVERY_MS);

for (let index = 0; index < endless; index += 1)
  keep(() => {
    const socket = connect({ port, host: '127.0.0.1' });
    // Every second one bears no signature, or says right away that it is huge.
    const head = [
      `${forged()}transfer-encoding: chunked`,
      'transfer-encoding: chunked',
      `${forged()}content-length: 9999999999`,
    ];
    socket.write(`${REQUEST}${(head[index % head.length] ?? '').replaceAll('\r\n\r\n', '\r\n')}\r\n\r\n`);
    const more = (): void => {
      while (socket.writable && socket.write(PART));
    };
    socket.on('drain', more);
    socket.once('connect', more);
    return socket;
  });
