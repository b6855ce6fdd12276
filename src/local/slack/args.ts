/** A Web API call's arguments, whichever way they came: form fields (JSON inside) or a JSON body. */
import { SlackRefusal } from './messages.ts';
import { isRecord, type Json } from './types.ts';

export class Args {
  readonly raw: Json;

  constructor(raw: Json) {
    this.raw = raw;
  }

  /** The string, or undefined when absent. Numbers count as strings, as in Slack's forms. */
  string(name: string): string | undefined {
    const value = this.raw[name];
    if (typeof value === 'string') return value;
    return typeof value === 'number' ? String(value) : undefined;
  }

  required(name: string, error = 'invalid_arguments'): string {
    const value = this.string(name);
    if (value === undefined || value === '') {
      throw new SlackRefusal(error, [`[ERROR] missing required field: ${name}`]);
    }
    return value;
  }

  flag(name: string): 'yes' | 'no' {
    const value = this.raw[name];
    return value === true || value === 'true' || value === '1' || value === 1 ? 'yes' : 'no';
  }

  /** A page size: `fallback` when absent, cut to 1…1000. */
  limit(fallback: number): number {
    const value = Number(this.string('limit') ?? fallback);
    return Number.isFinite(value) && value >= 1 ? Math.min(1000, Math.floor(value)) : fallback;
  }

  /** A structure given as JSON text or, in a JSON body, as itself. */
  json(name: string, error: string): unknown {
    const value = this.raw[name];
    if (typeof value !== 'string') return value ?? undefined;
    if (value === '') return undefined;
    try {
      return JSON.parse(value);
    } catch {
      throw new SlackRefusal(error);
    }
  }

  object(name: string, error: string): Json | undefined {
    const value = this.json(name, error);
    if (value === undefined) return undefined;
    if (!isRecord(value)) throw new SlackRefusal(error);
    return value;
  }
}

/** Pages through a list with an opaque cursor. */
export function page<T>(
  items: readonly T[],
  args: Args,
  fallback: number,
): { items: T[]; next_cursor: string } {
  const limit = args.limit(fallback);
  const cursor = args.string('cursor');
  const start = cursor ? Number(Buffer.from(cursor, 'base64').toString().replace('next:', '')) : 0;
  if (!Number.isInteger(start) || start < 0) throw new SlackRefusal('invalid_cursor');
  const end = start + limit;
  const next_cursor = end < items.length ? Buffer.from(`next:${end}`).toString('base64') : '';
  return { items: items.slice(start, end), next_cursor };
}
