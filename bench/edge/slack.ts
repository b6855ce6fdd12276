/**
 * Slack at the other end of the benchmark `edge`: the events it sends, signed, at a steady pace, and the one call of its Web API that taking
 * a mention makes.
 *
 * Invariants: the pace does not depend on the answers, so that a slow answer delays no later event; every event is one of its own.
 */
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, request, type Server } from 'node:http';
import { WORKSPACE } from '../world.ts';

export const SIGNING_SECRET = 'the signing secret of a benchmark';
export const BOT = { token: 'bench-token', userId: 'U0BENCHBOT', botId: 'B0BENCH' } as const;
const REQUESTER = 'U0REQUESTER';
export const POLICY = {
  reviewers: [{ teamId: WORKSPACE, userId: 'U0REVIEWERA' }],
  requesters: 'members',
  admins: [{ teamId: WORKSPACE, userId: 'U0REVIEWERA' }],
};

/** What came of one event. */
export interface Sent {
  /** From its first byte sent to the last of its answer. */
  readonly ackMs: number;
  /** 0 when there was none. */
  readonly status: number;
}

/** Sends `count` events to `port`, `perSecond` a second; resolves when all are answered. `from` numbers them. */
export async function sendEvents(
  port: number,
  { count, perSecond, from }: { readonly count: number; readonly perSecond: number; readonly from: number },
): Promise<Sent[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 200 });
  const answers: Promise<Sent>[] = [];
  const startedAt = performance.now();
  for (let n = 0; n < count; ) {
    const due = Math.min(count, Math.ceil(((performance.now() - startedAt) / 1_000) * perSecond));
    for (; n < due; n += 1) answers.push(send(agent, port, eventOf(from + n)));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  const sent = await Promise.all(answers);
  agent.destroy();
  return sent;
}

function send(agent: Agent, port: number, body: string): Promise<Sent> {
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signature = createHmac('sha256', SIGNING_SECRET).update(`v0:${timestamp}:${body}`).digest('hex');
  return new Promise((resolve) => {
    const beganAt = performance.now();
    const end = (status: number) => resolve({ ackMs: performance.now() - beganAt, status });
    request(
      {
        agent,
        host: '127.0.0.1',
        port,
        path: '/slack/events',
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          'x-slack-request-timestamp': timestamp,
          'x-slack-signature': `v0=${signature}`,
        },
      },
      (response) => {
        response.resume();
        response.once('end', () => end(response.statusCode ?? 0));
        response.once('error', () => end(0));
      },
    )
      .once('error', () => end(0))
      .end(body);
  });
}

/** A mention as Slack sends it: the fields of docs.slack.dev/reference/events/app_mention, with the blocks of what was typed. */
function eventOf(n: number): string {
  const text = `<@${BOT.userId}> look at issue ${n} of acme/shop and say what it needs`;
  const ts = `${1_790_000_000 + Math.floor(n / 1_000)}.${String((n % 1_000) * 1_000).padStart(6, '0')}`;
  return JSON.stringify({
    token: 'deprecated',
    team_id: WORKSPACE,
    api_app_id: 'A0BENCH',
    event: {
      type: 'app_mention',
      user: REQUESTER,
      text,
      ts,
      team: WORKSPACE,
      channel: `C0BENCH${n % 40}`,
      event_ts: ts,
      blocks: [
        {
          type: 'rich_text',
          block_id: 'b1',
          elements: [
            {
              type: 'rich_text_section',
              elements: [
                { type: 'user', user_id: BOT.userId },
                { type: 'text', text },
              ],
            },
          ],
        },
      ],
    },
    type: 'event_callback',
    event_id: `Ev${String(n).padStart(10, '0')}`,
    event_time: Number(ts.split('.')[0]),
    authorizations: [
      {
        enterprise_id: null,
        team_id: WORKSPACE,
        user_id: BOT.userId,
        is_bot: true,
        is_enterprise_install: false,
      },
    ],
    is_ext_shared_channel: false,
    event_context: '4-bench',
  });
}

/** Answers `users.info` for anybody, as Slack does for a full member. */
export async function openSlackApi(): Promise<{ readonly url: string; close(): Promise<void> }> {
  const server: Server = createServer((incoming, response) => {
    let body = '';
    incoming.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk;
    });
    incoming.once('end', () => {
      const id = new URLSearchParams(body).get('user');
      const user = { id, team_id: WORKSPACE, name: 'requester', deleted: false, is_bot: false };
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ ok: true, user }));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    url: `http://127.0.0.1:${address.port}/api/`,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
