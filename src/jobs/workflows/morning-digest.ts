/**
 * The morning digest of one date: everything up to now is sealed, and the digest is made of what the seals hold. Started by its schedule
 * like any other run; what it owes Slack is delivered like any other message.
 */
import { z } from 'zod';
import { DIGEST_WORKFLOW, makeDigest } from '../digest.ts';
import type { Database } from '../engine/db.ts';
import { type Workflow, workflow } from '../engine/workflow.ts';
import { sealOnce } from '../ledger.ts';
import { occurrenceInput } from '../schedules.ts';

/** Batches sealed before the digest is made; what a backlog beyond that holds is in the next one. */
const MAX_BATCHES = 20;

export interface MorningDigestDeps {
  readonly database: Database;
}

export function morningDigest(deps: MorningDigestDeps): Workflow {
  return workflow({
    ...DIGEST_WORKFLOW,
    input: z.object({ channelId: z.string().min(1), occurrence: occurrenceInput }),
    async body(step, { channelId, occurrence }) {
      // Another sealer at work does as well: what it leaves is sealed within a second, and told tomorrow.
      await step.run('seal', async () => {
        for (let batch = 0; batch < MAX_BATCHES; batch += 1)
          if ((await sealOnce(deps.database)) !== 'more') return;
      });
      const digestId = await step.transact('make', (tx) =>
        makeDigest(tx, step.runRef.workspaceId, channelId, occurrence),
      );
      return { digestId };
    },
  });
}
