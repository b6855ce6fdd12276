/**
 * The floor of the benchmark `edge`: a Bolt app as its own documentation writes one, which stores each mention with one insert before it
 * acknowledges, and does nothing else. Run by bench/edge.ts with the database's URL; tells its port over its channel.
 */
import { App, HTTPReceiver } from '@slack/bolt';
import pg from 'pg';
import { BOT, SIGNING_SECRET } from './slack.ts';

const [url] = process.argv.slice(2);
if (url === undefined) throw new Error('a URL is needed');
const pool = new pg.Pool({ connectionString: url, max: 4 });
const receiver = new HTTPReceiver({
  signingSecret: SIGNING_SECRET,
  // Acknowledged after the listener, as "one insert" needs.
  processBeforeResponse: true,
});
const app = new App({
  receiver,
  authorize: async () => ({ botToken: BOT.token, botId: BOT.botId, botUserId: BOT.userId }),
});
app.event('app_mention', async ({ body }) => {
  await pool.query({
    name: 'store',
    text: 'insert into floor_inbox (event_id, payload) values ($1, $2) on conflict do nothing',
    values: [body.event_id, JSON.stringify(body)],
  });
});
const server = await app.start({ port: 0, host: '127.0.0.1' });
const address = 'address' in server ? server.address() : null;
if (address === null || typeof address === 'string') throw new Error('no port');
process.on('disconnect', () => process.exit(0));
process.send?.({ port: address.port });
