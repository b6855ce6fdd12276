/** Reads from the sources which methods of Slack's Web API the product calls, by whatever name its client goes. */
import { readdirSync, readFileSync } from 'node:fs';

const BOT = new URL('../../src/bot/', import.meta.url);

/** The groups of Slack's methods that a WebClient has as properties; a call below one of them is a call of Slack's. */
const GROUPS =
  'admin|api|apps|assistant|agents|auth|blocks|bookmarks|bots|calls|canvases|chat|conversations|dialog|dnd|emoji|entity|files|functions|migration|oauth|openid|pins|reactions|reminders|rtm|search|slackLists|stars|team|tooling|usergroups|users|views|workflows';
const CALL = new RegExp(`\\.\\s*((?:${GROUPS})(?:\\s*\\??\\.\\s*\\w+){1,3})\\s*\\(`, 'g');

/** What would reach Slack without naming its method where it is called; none of it may stand in the bot. */
export const HIDDEN_CALL = /\.\s*(?:apiCall|chatStream|sayStream|paginate|respond)\s*\(/;

export interface Source {
  readonly name: string;
  readonly text: string;
}

/** The sources of the bot without their comments, which name methods too. */
export function botSources(): Source[] {
  return readdirSync(BOT, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => ({
      name,
      text: readFileSync(new URL(name, BOT), 'utf8')
        .replaceAll(/\/\*[\s\S]*?\*\//g, '')
        .replaceAll(/^\s*\/\/.*$/gm, ''),
    }));
}

/** `chat.postMessage`, `apps.connections.open`, …: each once, sorted. */
export function calledMethods(sources: readonly Source[] = botSources()): string[] {
  const calls = sources.flatMap(({ text }) =>
    [...text.matchAll(CALL)].map(([, name = '']) => name.replaceAll(/[\s?]/g, '')),
  );
  // The one helper of the client whose calls are known.
  if (sources.some(({ text }) => /\.\s*filesUploadV2\s*\(/.test(text)))
    calls.push('files.completeUploadExternal', 'files.getUploadURLExternal');
  return [...new Set(calls)].sort();
}
