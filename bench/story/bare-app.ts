/**
 * The floor of the story: a bare program where the product would be. It answers Slack at once, reacts to a mention, posts a message with one
 * button, and merges when that is pressed. It stores nothing, checks nothing and asks nobody.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { World } from '../../src/local/world.ts';

export interface BareApp {
  readonly eventsUrl: string;
  close(): Promise<void>;
}

interface Event {
  readonly type: string;
  readonly channel: string;
  readonly ts: string;
  readonly text: string;
}

export async function openBareApp(world: World): Promise<BareApp> {
  const slack = async (method: string, body: unknown): Promise<void> => {
    await fetch(`${world.slack.apiUrl}${method}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${world.slack.botToken}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  };
  const mentioned = async ({ channel, ts, text }: Event): Promise<void> => {
    await slack('reactions.add', { channel, timestamp: ts, name: 'eyes' });
    const value = /pull request (\d+)/.exec(text)?.[1] ?? '';
    const button = {
      type: 'button',
      action_id: 'approval.approve',
      value,
      text: { type: 'plain_text', text: 'Approve' },
    };
    await slack('chat.postMessage', {
      channel,
      thread_ts: ts,
      text: 'Merge?',
      blocks: [{ type: 'actions', elements: [button] }],
    });
  };
  const pressed = async (pull: string): Promise<void> => {
    await fetch(`${world.github.apiUrl.replace(/\/$/, '')}/repos/acme/shop/pulls/${pull}/merge`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${world.github.token}`, 'content-type': 'application/json' },
      body: '{}',
    });
  };
  const server = createServer((request, response) => {
    void readBody(request).then((body) => {
      response.end();
      const payload = new URLSearchParams(body).get('payload');
      if (payload !== null) return pressed(String(JSON.parse(payload).actions?.[0]?.value));
      const event = JSON.parse(body).event as Event | undefined;
      return event?.type === 'app_mention' ? mentioned(event) : undefined;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    eventsUrl: `http://127.0.0.1:${address.port}/`,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) body += chunk;
  return body;
}
