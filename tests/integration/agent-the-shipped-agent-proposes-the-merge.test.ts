/**
 * Guarantee: the shipped agent, over the real SDKs and the local model and GitHub, reads a pull request, its diff and
 * its checks, proposes the merge without performing it, and reports what the caller answered.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { answer } from '../../src/agents/conversation.ts';
import { ENGINEER, initialConversation } from '../../src/agents/definitions.ts';
import { createEgress } from '../../src/agents/egress.ts';
import { type WorkDeps, work } from '../../src/agents/loop.ts';
import { createModel } from '../../src/agents/model.ts';
import { SCRIPTED_MODEL } from '../../src/agents/prices.ts';
import { toolsFor } from '../../src/agents/tools/index.ts';
import { type LocalGitHub, startLocalGitHub } from '../../src/local/github.ts';
import { type ScriptedModel, startScriptedModel } from '../../src/local/model.ts';
import type { WriteTool } from '../../src/types.ts';
import { MemoryJournal, memoryStep } from '../support/memory-step.ts';

const OBJECTIVE = 'Please merge pull request 1 in acme/shop.';

let stateDir: string;
let github: LocalGitHub;
let scripted: ScriptedModel;
let deps: WorkDeps;

beforeAll(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'shipped-agent-'));
  github = await startLocalGitHub({ stateDir, token: 'local-token' });
  scripted = await startScriptedModel({ apiKey: 'local-key' });
  deps = {
    model: createModel({
      apiKey: 'local-key',
      baseUrl: scripted.baseUrl,
      model: SCRIPTED_MODEL,
      label: 'scripted model',
    }),
    tools: toolsFor({ baseUrl: github.apiUrl, token: 'local-token', credential: 'local bot' }),
    fetch: createEgress({ allowedOrigins: [github.apiUrl] }).read,
  };
});

afterAll(async () => {
  await Promise.all([github.close(), scripted.close()]);
  await rm(stateDir, { recursive: true, force: true });
});

test('it looks, proposes, waits, and reports', async () => {
  const step = memoryStep(new MemoryJournal());

  const proposed = await work(step, ENGINEER, initialConversation({ objective: OBJECTIVE }), deps);
  if (proposed.kind !== 'proposed') throw new Error(JSON.stringify(proposed));
  const merge = deps.tools.find((tool) => tool.kind === proposed.action.kind) as WriteTool;
  const view = await merge.target(proposed.action.arguments, {
    fetch: deps.fetch,
    signal: new AbortController().signal,
  });
  const rejected = { status: 'rejected', reason: 'Not today.' };
  const finished = await work(
    step,
    ENGINEER,
    answer(proposed.conversation, proposed.toolUseId, rejected, true),
    deps,
  );

  expect(proposed.action).toMatchObject({
    kind: 'github.pulls.merge',
    arguments: { owner: 'acme', repo: 'shop', pull_number: 1 },
    reason: expect.stringMatching(/\S/),
  });
  expect(proposed.turns).toHaveLength(3);
  expect(proposed.turns[0]).toMatchObject({ label: 'scripted model', costUsd: 0, currency: 'USD' });
  expect(view.preconditions[0]).toEqual({ path: '/state', expected: 'open' });
  expect(finished).toMatchObject({ kind: 'finished', summary: expect.stringMatching(/\S/) });
});
