/**
 * Every primitive once, in one story: an order is paid, packed and fetched. Look here for how a call is written, not for how a shop works.
 *
 * What leaves the process is the shop's, handed in as functions: a body that holds no client can be tested with scripted ones.
 */
import { z } from 'zod';
import type { Database } from '../../src/jobs/engine/db.ts';
import type { Engine } from '../../src/jobs/engine/engine.ts';
import { type Workflow, workflow } from '../../src/jobs/engine/workflow.ts';
import type { RunRef, Tx } from '../../src/types.ts';

const DAY_MS = 24 * 3_600_000;
const CARRIERS = ['north', 'south', 'west'] as const;

export interface Shop {
  read(orderId: string, signal: AbortSignal): Promise<{ readonly items: string[]; readonly cents: number }>;
  /** Returns how many parts are left in stock. */
  reserve(tx: Tx, orderId: string): Promise<number>;
  release(tx: Tx, orderId: string): Promise<void>;
  /** The same key twice is one payment. */
  charge(cents: number, idempotencyKey: string): Promise<string>;
  quote(carrier: string, signal: AbortSignal): Promise<number>;
  pack(item: string): Promise<string>;
  weigh(box: string): Promise<number>;
}

export function fulfilOrder(shop: Shop) {
  // #region child
  const pay = workflow({
    name: 'pay',
    version: 1,
    input: z.object({ cents: z.number().int().positive() }),
    body: (step, { cents }) => step.run('charge', ({ idempotencyKey }) => shop.charge(cents, idempotencyKey)),
  });
  // #endregion
  const quote = workflow({
    name: 'quote',
    version: 1,
    input: z.object({ carrier: z.enum(CARRIERS) }),
    body: (step, { carrier }) => step.run('quote', ({ signal }) => shop.quote(carrier, signal)),
  });

  const fulfil = workflow({
    name: 'fulfil-order',
    version: 1,
    input: z.object({ orderId: z.string(), travelMs: z.number() }),
    async body(step, { orderId, travelMs }) {
      // #region run
      const order = await step.run('read-order', ({ signal }) => shop.read(orderId, signal), { maxTries: 3 });
      // #endregion
      // #region transact
      const left = await step.transact('reserve', (tx) => shop.reserve(tx, orderId));
      // #endregion
      // #region invoke
      const receipt = await step.invoke('pay', pay, { cents: order.cents });
      // #endregion
      // #region first
      const asked = CARRIERS.map((carrier) => ({ key: carrier, workflow: quote, input: { carrier } }));
      const quotes = await step.first('quotes', 2, asked);
      const cheapest = Math.min(...quotes.completed.map(({ output }) => output));
      // #endregion
      // #region branch
      const grams = await Promise.all(
        order.items.map((item, place) =>
          step.branch(`item-${place}`, async (own) => {
            const box = await own.run('pack', () => shop.pack(item));
            return own.run('weigh', () => shop.weigh(box));
          }),
        ),
      );
      // #endregion
      // #region events
      const told = await step.sendEvent('tell', { event: 'order.packed', key: orderId, payload: { grams } });
      const heard = await step.waitForEvent('fetched', {
        event: 'order.fetched',
        key: orderId,
        timeoutMs: DAY_MS,
      });
      if (heard.outcome !== 'event') throw new Error(`Order ${orderId} was never fetched`);
      // #endregion
      // #region time
      await step.sleep('travel', travelMs);
      await step.sleepUntil('settle', new Date(step.now().getTime() + travelMs));
      const survey = { id: step.id(), askedAt: step.now().toISOString(), long: step.random() < 0.5 };
      // #endregion
      return { left, receipt, cheapest, grams, told, fetched: heard.payload, survey };
    },
    // #region ends
    async onFailure(step, { orderId }) {
      await step.transact('release', (tx) => shop.release(tx, orderId));
    },
    cancelOn: ({ orderId }) => [{ event: 'order.withdrawn', key: orderId }],
    // #endregion
  });
  return { fulfil, workflows: [fulfil, pay, quote] satisfies Workflow[] };
}

// #region start
/** The order and its run exist together, or neither does. The same order twice is one run. */
export function placeOrder(database: Database, engine: Engine, orderId: string): Promise<RunRef> {
  return database.transaction(async (tx) => {
    await tx.query({ text: 'insert into orders values ($1) on conflict do nothing', values: [orderId] });
    return engine.start(tx, {
      workspaceId: 'T0LOCAL',
      workflowName: 'fulfil-order',
      input: { orderId, travelMs: 20 },
      origin: 'shop',
      runKey: `order/${orderId}`,
    });
  });
}
// #endregion

export function fetchOrder(database: Database, engine: Engine, orderId: string): Promise<boolean> {
  return database.transaction((tx) =>
    engine.emit(tx, { workspaceId: 'T0LOCAL', name: 'order.fetched', key: orderId }, { by: 'courier' }),
  );
}
