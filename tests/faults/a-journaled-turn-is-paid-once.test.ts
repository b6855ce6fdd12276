/**
 * Guarantee: a model turn that is in the journal is never asked of the model again, wherever in the agent's work the process is killed:
 * the requests that reached the model are the turns in the journal and on the bill, plus only those that were cut off unanswered.
 */
import { afterAll, expect, test } from 'vitest';
import { type AnsweringServer, startAnsweringServer } from '../support/answering-server.ts';
import { until } from '../support/database.ts';
import { useProcess } from '../support/process.ts';
import { approve, ask, expectMergedOnce, ofRun, openCard, openPull, shown } from './story.ts';

/** What stands between the product and the scripted model: counts requests, and cuts the ones it is told to. */
let meter: AnsweringServer | undefined;
let isCutting = false;

const product = useProcess(async ({ model }) => {
  meter = await startAnsweringServer(async ({ url, body }) => {
    if (isCutting) return new Promise(() => {});
    const answer = await fetch(`${model.baseUrl}${url}`, {
      method: 'POST',
      headers: { 'x-api-key': model.apiKey, 'content-type': 'application/json' },
      body,
    });
    return {
      status: answer.status,
      headers: { 'content-type': answer.headers.get('content-type') ?? '' },
      body: await answer.text(),
    };
  });
  return { ANTHROPIC_BASE_URL: meter.url, ANTHROPIC_API_KEY: model.apiKey, COUNTERSIGN_MODEL: 'scripted' };
});
afterAll(() => meter?.close());

const requests = () => meter?.received.length ?? Number.NaN;
const TURNS = `select path from steps join this using (run_id) where path ~ '^turn(#\\d+)?$'`;
const BILLED = 'select path from model_turns join this using (run_id)';

test('killed while a tool reads: the turns before it are not taken again', async () => {
  const before = requests();
  const pull = await openPull(product);
  await product.fault({ match: { method: 'GET', pathPattern: '/compare/' }, kind: 'hold' });
  const story = await ask(product, pull);
  await product.held(1);
  await shown(product);
  const journaled = (await ofRun(product, story, TURNS)).length;
  expect(journaled).toBeGreaterThan(0);
  expect(requests() - before).toBe(journaled);

  await product.kill9();
  await product.start();
  const card = await openCard(product, story);
  await approve(product, card);

  await expectMergedOnce(product, { ...story, card });
  const turns = (await ofRun(product, story, TURNS)).length;
  expect(turns).toBeGreaterThan(journaled);
  expect(requests() - before).toBe(turns);
  expect(await ofRun(product, story, BILLED)).toHaveLength(turns);
});

test('killed while the model answers: only the unanswered request is made again', async () => {
  const pull = await openPull(product);
  const before = requests();
  isCutting = true;
  const story = await ask(product, pull);
  await until('the model to be asked', async () => requests() === before + 1);
  await shown(product);

  await product.kill9();
  isCutting = false;
  await product.start();
  const card = await openCard(product, story);
  await approve(product, card);

  await expectMergedOnce(product, { ...story, card });
  const turns = (await ofRun(product, story, TURNS)).length;
  expect(requests() - before).toBe(turns + 1);
  expect(await ofRun(product, story, BILLED)).toHaveLength(turns);
});
