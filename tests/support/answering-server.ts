/** An HTTP server on loopback that answers as a test says and keeps what it was sent. Close it after the test. */
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { Json } from '../../src/types.ts';

export interface Received {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
export interface Reply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** A string is sent as it is, anything else as JSON. */
  readonly body?: Json;
  /** Cuts the connection instead of answering. */
  readonly cut?: true;
}

export interface AnsweringServer {
  readonly url: string;
  readonly received: readonly Received[];
  close(): Promise<void>;
}

/** Starts it on any free port. `answer` may be async; what it throws becomes a 500. */
export async function startAnsweringServer(
  answer: (received: Received) => Reply | Promise<Reply>,
): Promise<AnsweringServer> {
  const received: Received[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', async () => {
      const body = Buffer.concat(chunks).toString('utf8');
      const one = { method: request.method ?? '', url: request.url ?? '', headers: request.headers, body };
      received.push(one);
      try {
        const reply = await answer(one);
        if (reply.cut) return void response.destroy();
        const isText = typeof reply.body === 'string';
        response.writeHead(reply.status, {
          'content-type': isText ? 'text/plain' : 'application/json; charset=utf-8',
          ...reply.headers,
        });
        response.end(isText ? reply.body : JSON.stringify(reply.body ?? {}));
      } catch (error) {
        response.writeHead(500).end(String(error));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The server has no port.');
  return {
    url: `http://127.0.0.1:${address.port}`,
    received,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
