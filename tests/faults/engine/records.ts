/**
 * A database that shows when the journal gets a path: before the statement is sent, after it, and after its commit.
 *
 * Invariant: it tells records by the table they go into and by the path among the statement's values, not by how the engine names or
 * cuts its statements; and it changes nothing that passes through.
 */
import type { Database } from '../../../src/jobs/engine/db.ts';
import type { Queryable, Statement } from '../../../src/types.ts';

export interface RecordHooks {
  readonly path: string;
  /** About to be sent. */
  readonly onSending?: () => Promise<void>;
  /** Sent and answered, its transaction still open. Not called for a statement that is its own transaction. */
  readonly onSent?: () => Promise<void>;
  readonly onCommitted?: () => Promise<void>;
}

export function watchRecords(database: Database, hooks: RecordHooks): Database {
  const isRecord = (statement: Statement) =>
    /insert into (steps|waits)\b/.test(statement.text) &&
    (statement.values ?? []).some((value) => value === hooks.path || isListWith(value, hooks.path));
  return {
    ...database,
    async query(statement) {
      if (!isRecord(statement)) return database.query(statement);
      await hooks.onSending?.();
      const answer = await database.query<never>(statement);
      await hooks.onCommitted?.();
      return answer;
    },
    async transaction(body) {
      let recorded = false;
      const result = await database.transaction(async (tx) => {
        recorded = false;
        const query: Queryable['query'] = async <Row extends object>(statement: Statement) => {
          if (!isRecord(statement)) return tx.query<Row>(statement);
          recorded = true;
          await hooks.onSending?.();
          return tx.query<Row>(statement);
        };
        const value = await body({ ...tx, query });
        if (recorded) await hooks.onSent?.();
        return value;
      });
      if (recorded) await hooks.onCommitted?.();
      return result;
    },
  };
}

function isListWith(value: unknown, path: string): boolean {
  return Array.isArray(value) && value.includes(path);
}
