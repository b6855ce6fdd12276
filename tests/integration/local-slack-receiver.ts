/**
 * A tiny app for tests of the local Slack: takes what is delivered, checks every signature by Slack's rule, and
 * answers as told.
 */
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Received {
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: string;
  /** The event envelope, the interaction payload, or the command's form fields. */
  readonly json: Record<string, unknown>;
  readonly signed: boolean;
}

export interface Answer {
  readonly status?: number;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

export interface Receiver {
  readonly url: string;
  readonly received: Received[];
  /** Decides the answer to each request; the default acknowledges. */
  answer: (received: Received) => Answer | Promise<Answer>;
  events(type: string): Received[];
  interactions(type: string): Received[];
  close(): Promise<void>;
}

export async function startReceiver(signingSecret: string, port = 0): Promise<Receiver> {
  const received: Received[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const timestamp = String(request.headers['x-slack-request-timestamp']);
    const expected = createHmac('sha256', signingSecret).update(`v0:${timestamp}:${body}`).digest('hex');
    const one: Received = {
      headers: request.headers,
      body,
      json: parse(body),
      signed:
        request.headers['x-slack-signature'] === `v0=${expected}` &&
        Math.abs(Number(timestamp) - Date.now() / 1000) < 300,
    };
    received.push(one);
    const answer = await receiver.answer(one);
    response.writeHead(answer.status ?? 200, { 'content-type': 'application/json', ...answer.headers });
    response.end(answer.body === undefined ? '' : JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/slack/events`,
    received,
    answer: () => ({}),
    events: (type) => received.filter((one) => isType(one.json.event, type)),
    interactions: (type) => received.filter((one) => one.json.type === type),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return receiver;
}

function isType(event: unknown, type: string): boolean {
  return typeof event === 'object' && event !== null && 'type' in event && event.type === type;
}

function parse(body: string): Record<string, unknown> {
  if (body.startsWith('{')) return JSON.parse(body) as Record<string, unknown>;
  const form = new URLSearchParams(body);
  const payload = form.get('payload');
  return payload === null ? Object.fromEntries(form) : (JSON.parse(payload) as Record<string, unknown>);
}
