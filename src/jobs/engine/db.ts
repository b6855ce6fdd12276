/**
 * The database as the rest of the product sees it: statements, transactions, one listening connection.
 *
 * Hides pooling, connection errors, retry of whole transactions and result checking.
 * Invariants: a transaction either committed or threw (a COMMIT that Postgres answered with ROLLBACK throws); a
 * callback given to `afterCommit` never runs unless it did, one given to `afterRollback` always runs when it threw.
 */
import pg from 'pg';
import { CountersignError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Queryable, Statement, Tx } from '../../types.ts';

/** Tries of one transaction that Postgres aborted as a deadlock victim or serialization failure (FAULTS: at most 5). */
const TRANSACTION_TRIES = 5;
/** SQLSTATEs after which the whole transaction may be run again: postgresql.org/docs/18/errcodes-appendix.html, class 40. */
const RETRYABLE_STATES = new Set(['40001', '40P01']);
/** Half-open connections are noticed by keep-alive and by this bound on any statement (FAULTS: at most 30 s). */
const STATEMENT_TIMEOUT_MS = 30_000;
/**
 * A process that is stopped, or whose machine is gone, between a lock and its commit lets go after this long, which is the lease: else its
 * lock would keep every deadline of everybody from being looked at.
 */
const IDLE_IN_TRANSACTION_MS = 8_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** A listening connection sends nothing by itself, so a half-open one is noticed only by asking (with the answer's bound: 15 s). */
const PING_EVERY_MS = 10_000;
const PING_TIMEOUT_MS = 5_000;
/** A connection that does not say goodbye by then is cut. */
const CLOSE_MS = 1_000;

const types: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    // int8 counts and fences stay far below 2^53.
    if (oid === pg.types.builtins.INT8) return Number;
    return pg.types.getTypeParser(oid, format ?? 'text');
  },
} as pg.CustomTypesConfig;

export interface DatabaseOptions {
  readonly url: string;
  readonly log: Logger;
  /** Most connections of the pool. Default `10`. */
  readonly maxConnections?: number;
  /** How long a caller waits for a free connection. Default `5_000`. */
  readonly acquireTimeoutMs?: number;
  /** How often a listening connection is asked whether it lives. Default `10_000`. */
  readonly pingEveryMs?: number;
  /** How long it may take to answer before it is replaced. Default `5_000`. */
  readonly pingTimeoutMs?: number;
  /** How long the database works on one statement before it gives it up. Default `30_000`. */
  readonly statementTimeoutMs?: number;
  /** Shown in pg_stat_activity. Default `countersign`. */
  readonly name?: string;
}

export interface Database extends Queryable {
  /**
   * Sends one statement, its own transaction. Rejects without sending it once `signal` is aborted, however late a connection is free; what is
   * sent already goes on.
   */
  query<Row extends object>(
    statement: Statement,
    signal?: AbortSignal,
  ): Promise<{ rows: Row[]; rowCount: number }>;
  /**
   * Runs `body` in one transaction and commits it. `body` may run again (at most 5 times) when Postgres aborts it as a
   * deadlock victim, so it must have no effect outside the transaction but `afterCommit`.
   */
  transaction<T>(body: (tx: Tx) => Promise<T>): Promise<T>;
  /**
   * Listens on `channel` with a connection of its own and calls `onPayload` for each notification. `onGap` is called
   * after every (re)connection: what was sent meanwhile is lost and must be looked up. A connection that has died without a word
   * (half-open TCP) is noticed within `pingEveryMs + pingTimeoutMs`.
   */
  listen(channel: string, onPayload: (payload: string) => void, onGap: () => void): Promise<Listener>;
  close(): Promise<void>;
}

export interface Listener {
  /** Ends the connection, within a second also when the other side is gone. */
  close(): Promise<void>;
}

export function connectDatabase(options: DatabaseOptions): Database {
  const {
    pingEveryMs = PING_EVERY_MS,
    pingTimeoutMs = PING_TIMEOUT_MS,
    statementTimeoutMs = STATEMENT_TIMEOUT_MS,
  } = options;
  const config: pg.ClientConfig = {
    connectionString: options.url,
    application_name: options.name ?? 'countersign',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: statementTimeoutMs,
    query_timeout: statementTimeoutMs + 1_000,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    types,
  };
  const pool = new pg.Pool({
    ...config,
    max: options.maxConnections ?? 10,
    connectionTimeoutMillis: options.acquireTimeoutMs ?? CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: 30_000,
  });
  // An idle connection that breaks is replaced by the pool; the error must not end the process.
  pool.on('error', (error) => options.log.warn({ err: error.message }, 'idle database connection lost'));
  // Between being handed out and being listened to by its taker, a connection may break too: then its next query fails.
  pool.on('connect', (client) => client.on('error', () => undefined));

  const database: Database = {
    query: (statement, signal) =>
      signal === undefined ? send(pool, statement) : sendUnlessAborted(pool, statement, signal),

    async transaction(body) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await once(pool, body);
        } catch (error) {
          if (attempt >= TRANSACTION_TRIES || !RETRYABLE_STATES.has(sqlState(error) ?? '')) throw error;
          await pause(Math.random() * 10 * 2 ** attempt);
        }
      }
    },

    listen: (channel, onPayload, onGap) =>
      listen(
        { ...config, statement_timeout: 0, query_timeout: pingTimeoutMs },
        pingEveryMs,
        options.log,
        channel,
        onPayload,
        onGap,
      ),
    close: () => pool.end(),
  };
  return database;
}

async function once<T>(pool: pg.Pool, body: (tx: Tx) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  const committed: (() => void)[] = [];
  const rolledBack: (() => void)[] = [];
  let broken: Error | undefined;
  const onError = (error: Error) => {
    broken = error;
  };
  client.on('error', onError);
  try {
    await client.query('begin');
    const result = await body({
      query: (statement) => send(client, statement),
      afterCommit: (callback) => committed.push(callback),
      afterRollback: (callback) => rolledBack.push(callback),
    });
    const commit = await client.query('commit');
    // After an error inside the transaction Postgres answers COMMIT with ROLLBACK and no error.
    if (commit.command !== 'COMMIT') throw new Error('the transaction was rolled back by the database');
    for (const callback of committed) callback();
    return result;
  } catch (error) {
    for (const callback of rolledBack) callback();
    await client.query('rollback').catch((rollbackError: unknown) => {
      broken = rollbackError instanceof Error ? rollbackError : new Error(String(rollbackError));
    });
    throw error;
  } finally {
    client.off('error', onError);
    client.release(broken ?? false);
  }
}

/** Calls `committed` once what was sent to `target` stands: after the transaction's commit; at once on a pool, where each statement is one. */
export function whenCommitted(target: Queryable | Tx, committed: () => void): void {
  if ('afterCommit' in target) target.afterCommit(committed);
  else committed();
}

async function sendUnlessAborted<Row extends object>(
  pool: pg.Pool,
  statement: Statement,
  signal: AbortSignal,
): Promise<{ rows: Row[]; rowCount: number }> {
  signal.throwIfAborted();
  const client = await pool.connect();
  let broken = false;
  try {
    signal.throwIfAborted();
    return await send<Row>(client, statement);
  } catch (error) {
    broken = isDatabaseAway(error);
    throw error;
  } finally {
    client.release(broken);
  }
}

async function send<Row extends object>(
  target: pg.Pool | pg.PoolClient,
  statement: Statement,
): Promise<{ rows: Row[]; rowCount: number }> {
  const result: pg.QueryResult<Row> | pg.QueryResult<Row>[] = await target.query<Row>(
    statement as pg.QueryConfig,
  );
  if (!Array.isArray(result)) return { rows: result.rows, rowCount: result.rowCount ?? 0 };
  // Several statements in one text (without values) answer with one result each.
  return {
    rows: result.flatMap((one) => one.rows),
    rowCount: result.reduce((sum, one) => sum + (one.rowCount ?? 0), 0),
  };
}

async function listen(
  config: pg.ClientConfig,
  pingEveryMs: number,
  log: Logger,
  channel: string,
  onPayload: (payload: string) => void,
  onGap: () => void,
): Promise<Listener> {
  let closed = false;
  let client: pg.Client | undefined;
  let retry: NodeJS.Timeout | undefined;

  const connect = async (failures: number): Promise<void> => {
    const fresh = new pg.Client(config);
    let ended = false;
    let ping: NodeJS.Timeout | undefined;
    const again = (error?: Error) => {
      if (ended) return;
      ended = true;
      clearInterval(ping);
      // With a query unanswered this cuts the connection rather than wait for a goodbye.
      fresh.end().catch(() => undefined);
      if (closed) return;
      log.warn({ channel, err: error?.message }, 'listening connection lost');
      const delayMs = Math.min(3_000, 50 * 2 ** Math.min(failures, 6)) * (0.5 + Math.random() / 2);
      retry = setTimeout(() => void connect(failures + 1), delayMs);
    };
    fresh.on('error', again);
    fresh.on('end', () => again());
    fresh.on('notification', (message) => onPayload(message.payload ?? ''));
    try {
      await fresh.connect();
      await fresh.query(`listen ${channel}`);
      client = fresh;
      failures = 0;
      if (closed) return await endSoon(fresh);
      let asked = false;
      ping = setInterval(() => {
        if (asked) return;
        asked = true;
        // Without an answer within the bound this rejects.
        fresh.query('select 1').then(() => (asked = false), again);
      }, pingEveryMs);
      onGap();
    } catch (error) {
      again(error instanceof Error ? error : new Error(String(error)));
    }
  };
  await connect(0);
  return {
    async close() {
      closed = true;
      clearTimeout(retry);
      if (client) await endSoon(client);
    },
  };
}

/** Says goodbye, and cuts the connection when that is not answered. */
async function endSoon(client: pg.Client): Promise<void> {
  let overdue: NodeJS.Timeout | undefined;
  const cut = new Promise<void>((resolve) => {
    overdue = setTimeout(() => {
      client.connection.stream.destroy();
      resolve();
    }, CLOSE_MS);
  });
  await Promise.race([client.end().catch(() => undefined), cut]);
  clearTimeout(overdue);
}

/** The SQLSTATE of a database error, or undefined for anything else. */
export function sqlState(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

/** SQLSTATE class 08 (connection), 53 (no room for one more), 57P (shut down, or not up yet): errcodes-appendix as above. */
const AWAY_STATES = /^(?:08|53|57P)/;
const AWAY_SYSTEM = /^(?:ECONN\w+|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN)$/;
/** What pg and pg-pool throw without a code (pg 8.23: lib/client.js, pg-pool's index.js). */
const AWAY_WORDS =
  /^(?:Connection terminated|timeout expired|timeout exceeded when trying to connect|Query read timeout)|is not queryable$/;

/** True when the database could not be spoken to: what was asked of it was not refused, and may be asked again. */
export function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = String((error as NodeJS.ErrnoException).code);
  return AWAY_SYSTEM.test(code) || AWAY_STATES.test(sqlState(error) ?? '') || AWAY_WORDS.test(error.message);
}

/**
 * Tries to connect once. Throws DATABASE_UNREACHABLE with one line that names host and cause, and no password.
 */
export async function probeDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('select 1');
  } catch (error) {
    const where = URL.canParse(url) ? `${new URL(url).host}${new URL(url).pathname}` : 'DATABASE_URL';
    const cause = error instanceof AggregateError ? error.errors[0] : error;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CountersignError('DATABASE_UNREACHABLE', `Cannot reach the database at ${where}: ${why}`, {
      cause: error,
    });
  } finally {
    await client.end().catch(() => undefined);
  }
}

function pause(durationMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs));
}
