/**
 * Talking to an engine in a process of its own.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';

/** The next message of `child`. Throws when it ends instead. */
export async function nextMessage(child: ChildProcess): Promise<unknown> {
  const heard = new AbortController();
  try {
    return await Promise.race([
      once(child, 'message', heard).then(([message]) => message as unknown),
      once(child, 'exit', heard).then(([code]) => {
        throw new Error(`the engine's process ended with ${code}`);
      }),
    ]);
  } finally {
    heard.abort();
  }
}
