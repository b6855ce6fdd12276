/**
 * The local world as a process of its own: `world-process.ts --state-dir <dir> [--events-url <url>]
 * [--redelivery-scale <n>]`. Started detached by `launchWorld`, it outlives the product and is outlived by it.
 *
 * Ready means `<state-dir>/world.json` names this process by pid and nonce. A second process on the same folder exits
 * with `HELD_EXIT_CODE` and touches nothing. SIGTERM and SIGINT close cleanly.
 */
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startWorld, WorldHeld } from './world.ts';

/** EX_TEMPFAIL: not an error of this folder, only not our turn. */
const HELD_EXIT_CODE = 75;

const { values } = parseArgs({
  options: {
    'state-dir': { type: 'string' },
    'events-url': { type: 'string' },
    'redelivery-scale': { type: 'string' },
  },
});
const stateDir = values['state-dir'];
if (stateDir === undefined) throw new Error('world-process needs --state-dir');

try {
  const world = await startWorld({
    stateDir,
    ...(values['events-url'] === undefined ? {} : { eventsUrl: values['events-url'] }),
    ...(values['redelivery-scale'] === undefined
      ? {}
      : { redeliveryScale: Number(values['redelivery-scale']) }),
  });
  const worldFile = join(stateDir, 'world.json');
  let closing = false;
  const close = async (): Promise<void> => {
    if (closing) return;
    closing = true;
    await rm(worldFile, { force: true });
    await world.close();
    process.exit(0);
  };
  process.on('SIGTERM', close);
  process.on('SIGINT', close);

  const temporary = `${worldFile}.${process.pid}.tmp`;
  await writeFile(temporary, `${JSON.stringify({ pid: process.pid, ...world }, null, 2)}\n`, { mode: 0o600 });
  await rename(temporary, worldFile);
} catch (error) {
  if (!(error instanceof WorldHeld)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(HELD_EXIT_CODE);
}
