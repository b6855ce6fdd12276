/**
 * The scripts in the order they are asked; the first that answers wins. A new story is one file here and one line below,
 * with one line in `CAN` for what a person may ask.
 */
import { type Conversation, type Reply, type Script, say } from '../conversation.ts';
import { mergePullRequest } from './merge-pull-request.ts';

const SCRIPTS: readonly Script[] = [mergePullRequest];
const CAN: readonly string[] = ['“merge pull request 1 in acme/shop”'];

export function nextReply(conversation: Conversation): Reply {
  for (const script of SCRIPTS) {
    const reply = script(conversation);
    if (reply) return reply;
  }
  return say(
    `I am a scripted model: I follow a few fixed stories and understand nothing else. You can ask me to ${CAN.join(', ')}. To connect a real model, set ANTHROPIC_API_KEY and start again.`,
  );
}
