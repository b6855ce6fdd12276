/**
 * What a model turn costs. The provider's library knows no prices, so they stand here with the day they were read.
 *
 * Invariant: a bound on money never under-counts. A model that is not in the table is charged like the dearest one
 * that is, unless whoever made the seam named its price (a local model, for one, at nothing).
 */

/** US dollars per million tokens. */
export interface ModelPrice {
  readonly input: number;
  readonly output: number;
  /** Writing to the five-minute cache, the only one the seam asks for. */
  readonly cacheWrite: number;
  readonly cacheRead: number;
}

/** Tokens of one turn. `input` counts what was neither written to nor read from the cache. */
export interface TokenUsage {
  readonly input: number;
  readonly output: number;
  readonly cacheCreation: number;
  readonly cacheRead: number;
}

/** Name of the local scripted model. It costs nothing. */
export const SCRIPTED_MODEL = 'scripted';

/**
 * The day the table was compiled, from copies of platform.claude.com/docs/en/about-claude/pricing and of the model
 * pages. Cache writes are 1.25 times the input; cache reads as published per model in October 2026.
 */
export const PRICE_TABLE_DATE = '2026-11-21';

const FREE: ModelPrice = { input: 0, output: 0, cacheWrite: 0, cacheRead: 0 };

/** Prompts longer than this, cached tokens included, are in the dearer band where a model has two. */
const LONG_PROMPT_TOKENS = 100_000;

interface PriceRow {
  readonly usual: ModelPrice;
  readonly longPrompt?: ModelPrice;
}

const PRICES: ReadonlyMap<string, PriceRow> = new Map<string, PriceRow>([
  [SCRIPTED_MODEL, { usual: FREE }],
  ['claude-opus-5-5', { usual: { input: 4, output: 20, cacheWrite: 5, cacheRead: 0.2 } }],
  ['claude-sonnet-5-5', { usual: { input: 2, output: 10, cacheWrite: 2.5, cacheRead: 0.1 } }],
  [
    'claude-haiku-5-5',
    {
      usual: { input: 0.1, output: 0.5, cacheWrite: 0.125, cacheRead: 0.01 },
      longPrompt: { input: 0.5, output: 2.5, cacheWrite: 0.625, cacheRead: 0.05 },
    },
  ],
]);

/** For a model nobody named a price for: the highest published rates, claude-fable-5-1's with the oldest cache rate. */
const DEAREST: ModelPrice = { input: 10, output: 50, cacheWrite: 12.5, cacheRead: 1 };

/** The cost of one turn in US dollars. `model` may carry a date suffix (`-20261007`). */
export function costUsd(model: string, usage: TokenUsage, price?: ModelPrice): number {
  const row = PRICES.get(model.replace(/-\d{8}$/, ''));
  const promptTokens = usage.input + usage.cacheCreation + usage.cacheRead;
  const long = promptTokens > LONG_PROMPT_TOKENS ? row?.longPrompt : undefined;
  const rates = price ?? long ?? row?.usual ?? DEAREST;
  const dollars =
    usage.input * rates.input +
    usage.output * rates.output +
    usage.cacheCreation * rates.cacheWrite +
    usage.cacheRead * rates.cacheRead;
  return dollars / 1_000_000;
}
