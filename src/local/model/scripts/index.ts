/**
 * The scripts in the order they are asked; the first that answers wins. A new story is one file here and one line below,
 * with one line in `CAN` for what a person may ask.
 */
import { type Conversation, type Reply, type Script, say } from '../conversation.ts';
import { closeStaleIssues } from './close-stale-issues.ts';
import { draftReleaseNote } from './draft-release-note.ts';
import { fixFailingCheck } from './fix-failing-check.ts';
import { mergePullRequest } from './merge-pull-request.ts';
import { triageIssues } from './triage-issues.ts';

const SCRIPTS: readonly Script[] = [
  mergePullRequest,
  triageIssues,
  draftReleaseNote,
  fixFailingCheck,
  closeStaleIssues,
];
const CAN: readonly string[] = [
  '“triage the open issues in acme/shop”',
  '“write a release note draft for acme/shop”',
  '“fix the failing check in acme/shop”',
  '“close stale issues in acme/shop”',
  '“merge pull request 1 in acme/shop”',
];

export function nextReply(conversation: Conversation): Reply {
  for (const script of SCRIPTS) {
    const reply = script(conversation);
    if (reply) return reply;
  }
  return say(
    `I am a scripted model: I follow a few fixed stories and understand nothing else. You can ask me to ${CAN.join(', ')}. To connect a real model, set ANTHROPIC_API_KEY and start again.`,
  );
}
