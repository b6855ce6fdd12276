/**
 * The PostgreSQL of a chaos run: an embedded server of its own in a temporary folder, which can be stopped and started again; or, when
 * a server is named, a database of its own there, whose sessions are cut instead.
 *
 * Invariant: after `interrupt` has resolved the database answers again at the same address. `close` leaves nothing behind.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { findBinaries, runProgram, serverUser } from '../../src/local/postgres/binaries.ts';
import { startPostgres } from '../../src/local/postgres.ts';

export interface ChaosServer {
  readonly adminUrl: string;
  readonly appUrl: string;
  /** Takes the database away for `downMs` (a named server: cuts every session, once) and brings it back. */
  interrupt(mode: 'immediate' | 'fast', downMs: number): Promise<void>;
  close(): Promise<void>;
}

export async function openServer(stateDir: string): Promise<ChaosServer> {
  const home = await prepareHome(stateDir);
  const server = await startPostgres({ stateDir });
  const stop = async (mode: 'immediate' | 'fast') => {
    const user = await serverUser();
    const binaries = await findBinaries(home, user);
    const dataDir = path.join(await movedHome(home), 'cluster', 'data');
    const { code, output } = await runProgram(
      binaries,
      'pg_ctl',
      ['stop', '-m', mode, '-w', '-t', '30', '-s', '-D', dataDir],
      { user, cwd: home },
    );
    if (code !== 0) throw new Error(`PostgreSQL did not stop: ${output.trim()}`);
  };
  return {
    adminUrl: server.adminUrl,
    appUrl: server.appUrl,
    async interrupt(mode, downMs) {
      await stop(mode);
      await pause(downMs);
      const again = await startPostgres({ stateDir });
      if (again.appUrl !== server.appUrl) throw new Error('PostgreSQL came back at another address');
    },
    close: () => server.stop(),
  };
}

/** Where startPostgres keeps things when the state folder is closed to the server's user. */
async function movedHome(home: string): Promise<string> {
  return (await readFile(path.join(home, 'moved-to'), 'utf8').catch(() => '')) || home;
}

/**
 * The server keeps the port of last time. It is chosen here, below the range of outgoing connections: while the server is down, a worker's
 * outgoing connection must not take its port.
 */
async function prepareHome(stateDir: string): Promise<string> {
  const home = path.join(stateDir, 'postgres');
  await mkdir(home, { recursive: true });
  if (process.getuid?.() === 0) for (const folder of [stateDir, home]) await chmod(folder, 0o711);
  for (let tries = 0; tries < 50; tries += 1) {
    const port = 20_000 + (randomBytes(2).readUInt16BE() % 10_000);
    if (!(await isFree(port))) continue;
    await writeFile(path.join(home, 'port'), String(port));
    return home;
  }
  throw new Error('no free port between 20000 and 30000');
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  probe.listen(port, '127.0.0.1');
  try {
    await once(probe, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    probe.close();
  }
}

/** `url` connects as somebody who may create databases. The product then works as the owner of its database. */
export async function borrowServer(url: string): Promise<ChaosServer> {
  const name = `countersign_chaos_${randomBytes(6).toString('hex')}`;
  const asOwner = async (statement: string): Promise<void> => {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    await client.connect();
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  };
  await asOwner(`create database ${name}`);
  const own = new URL(url);
  own.pathname = `/${name}`;
  return {
    adminUrl: own.href,
    appUrl: own.href,
    interrupt: () =>
      asOwner(`select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`),
    close: () => asOwner(`drop database ${name} with (force)`),
  };
}
