/**
 * Guarantee: whatever happened before, `startPostgres` ends with one server per state folder and URLs that work: on the
 * first start, when the starter was killed, when two start at once, when the server itself was killed, when npm left the
 * library links out. And the app's role can log in and nothing else.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type EmbeddedPostgres, startPostgres } from '../../src/local/postgres.ts';

const LAUNCHER = path.resolve(import.meta.dirname, '../../src/local/postgres.ts');

let stateDir: string;
let started: EmbeddedPostgres[];

beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'embedded-postgres-'));
  started = [];
});

afterEach(async () => {
  await started[0]?.stop();
  await rm(stateDir, { recursive: true, force: true });
});

describe('the embedded PostgreSQL', () => {
  test('the first start yields two working roles, neither a superuser, and a private password file', async () => {
    const server = await start();

    const owner = await ask(
      server.adminUrl,
      'select rolsuper, rolcreatedb, current_database() as db from pg_roles where rolname = current_user',
    );
    const app = await ask(
      server.appUrl,
      'select rolsuper, rolcreatedb, rolcreaterole, rolreplication from pg_roles where rolname = current_user',
    );
    const settings = await ask(
      server.appUrl,
      "select current_setting('fsync') as fsync, current_setting('server_encoding') as encoding, current_setting('max_connections')::int as connections",
    );

    expect(owner).toEqual([{ rolsuper: false, rolcreatedb: true, db: 'countersign' }]);
    expect(app).toEqual([
      { rolsuper: false, rolcreatedb: false, rolcreaterole: false, rolreplication: false },
    ]);
    expect(settings).toEqual([{ fsync: 'on', encoding: 'UTF8', connections: 200 }]);
    const passwords = await stat(path.join(stateDir, 'postgres/cluster/passwords.json'));
    expect(passwords.mode & 0o777).toBe(0o600);
  });

  test('the app role cannot create a table, a temporary one, a schema, a database or a role', async () => {
    const server = await start();

    for (const statement of [
      'create table t (id int)',
      'create temporary table t (id int)',
      'create schema s',
      'create database d',
      'create role r',
    ]) {
      await expect(ask(server.appUrl, statement), statement).rejects.toMatchObject({ code: '42501' });
    }
    await ask(server.adminUrl, 'create table t (id int)');
    await expect(ask(server.appUrl, 'select id from t')).rejects.toMatchObject({ code: '42501' });
  });

  test('a connection without the password, or as the superuser, is refused', async () => {
    const server = await start();

    const wrong = new URL(server.appUrl);
    wrong.password = 'wrong';
    await expect(ask(wrong.href, 'select 1')).rejects.toMatchObject({ code: '28P01' });
    const superuser = new URL(server.appUrl);
    superuser.username = 'postgres';
    await expect(ask(superuser.href, 'select 1')).rejects.toMatchObject({ code: '28000' });
  });

  test('a server whose starter was killed is adopted, with its data and the same URLs', async () => {
    const starter = startElsewhere();
    const urls = await starter.urls;
    await ask(urls.adminUrl, 'create table kept (id int); insert into kept values (7)');
    const before = await postmasterPid();
    starter.child.kill('SIGKILL');
    await starter.ended;

    const server = await start();

    expect(await postmasterPid()).toBe(before);
    expect([server.adminUrl, server.appUrl]).toEqual([urls.adminUrl, urls.appUrl]);
    expect(await ask(server.adminUrl, 'select id from kept')).toEqual([{ id: 7 }]);
  });

  test('starters racing on an empty folder share one server', async () => {
    const starters = [startElsewhere(), startElsewhere(), startElsewhere()];

    const urls = await Promise.all([...starters.map((starter) => starter.urls), start()]);

    expect(new Set(urls.map((each) => each.adminUrl)).size).toBe(1);
    expect(new Set(urls.map((each) => each.appUrl)).size).toBe(1);
    expect(await ask(urls[0]?.appUrl ?? '', 'select 1 as one')).toEqual([{ one: 1 }]);
    for (const starter of starters) starter.child.kill('SIGKILL');
  });

  test('starters racing on a stopped server share one server', async () => {
    await (await start()).stop();
    const starters = [startElsewhere(), startElsewhere(), startElsewhere()];

    const urls = await Promise.all([...starters.map((starter) => starter.urls), start()]);

    expect(new Set(urls.map((each) => each.appUrl)).size).toBe(1);
    for (const starter of starters) starter.child.kill('SIGKILL');
  });

  test('a server killed uncleanly starts again with every committed row, on the same port', async () => {
    const first = await start();
    await ask(first.adminUrl, 'create table kept (id int); insert into kept values (7)');
    process.kill(await postmasterPid(), 'SIGKILL');

    const second = await start();

    expect(second.port).toBe(first.port);
    expect(await ask(second.adminUrl, 'select id from kept')).toEqual([{ id: 7 }]);
  });

  test('a pid file naming a living stranger does not keep the server from starting', async () => {
    await (await start()).stop();
    const dataDir = path.join(stateDir, 'postgres/cluster/data');
    await writeFile(
      path.join(dataDir, 'postmaster.pid'),
      `${process.pid}\n${dataDir}\n1\n1\n\n127.0.0.1\n\nready   \n`,
    );

    const server = await start();

    expect(await ask(server.appUrl, 'select 1 as one')).toEqual([{ one: 1 }]);
  });

  test('a port taken by a stranger since the last start is given up', async () => {
    const first = await start();
    await first.stop();
    const { createServer } = await import('node:net');
    const stranger = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => stranger.listen(first.port, '127.0.0.1', resolve));

    const second = await start();

    expect(second.port).not.toBe(first.port);
    expect(await ask(second.appUrl, 'select 1 as one')).toEqual([{ one: 1 }]);
    await new Promise((resolve) => stranger.close(resolve));
  });

  test.runIf(process.platform === 'linux')('missing library links are made', async () => {
    const name = `@embedded-postgres/linux-${process.arch}`;
    const packageDir = path.resolve(path.dirname(createRequire(import.meta.url).resolve(name)), '..');
    const links = JSON.parse(await readFile(path.join(packageDir, 'native/pg-symlinks.json'), 'utf8')) as {
      target: string;
    }[];
    // Only one that no running program of another test needs: libecpg is for compilers.
    const spare = links
      .map((each) => path.join(packageDir, each.target))
      .find((file) => file.endsWith('libecpg.so'));
    if (!spare) throw new Error('pg-symlinks.json names no libecpg.so');
    await unlink(spare);

    await start();

    expect((await stat(spare)).isFile()).toBe(true);
  });

  test('a data folder of another major version is refused, naming dump and restore', async () => {
    await (await start()).stop();
    await writeFile(path.join(stateDir, 'postgres/cluster/data/PG_VERSION'), '17\n');

    await expect(start()).rejects.toThrow(/written by PostgreSQL 17.*18.*dump.*restore/);
    started = [];
  });
});

async function start(): Promise<EmbeddedPostgres> {
  const server = await startPostgres({ stateDir });
  started.push(server);
  return server;
}

/** A starter that is a process of its own and, like the product, stays alive after starting. */
function startElsewhere(): { child: ChildProcess; urls: Promise<EmbeddedPostgres>; ended: Promise<unknown> } {
  const program = `
    const { startPostgres } = await import(${JSON.stringify(LAUNCHER)});
    console.log(JSON.stringify(await startPostgres({ stateDir: ${JSON.stringify(stateDir)} })));
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const urls = new Promise<EmbeddedPostgres>((resolve, reject) => {
    let text = '';
    child.stdout?.on('data', (chunk) => {
      text += chunk;
      if (text.includes('\n')) resolve(JSON.parse(text));
    });
    child.once('exit', () => reject(new Error('the starter ended early')));
  });
  return { child, urls, ended };
}

async function postmasterPid(): Promise<number> {
  const text = await readFile(path.join(stateDir, 'postgres/cluster/data/postmaster.pid'), 'utf8');
  return Number(text.split('\n')[0]);
}

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const result = await client.query(sql);
    return result.rows;
  } finally {
    await client.end();
  }
}
