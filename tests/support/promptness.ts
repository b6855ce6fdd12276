/**
 * For tests of how soon something happens. A machine that gives its time to others for a moment is late once; a product that is late is late
 * every time, and three times in a row. Everything else waits patiently (`until`) and is tried once.
 */
export const PROMPTNESS = { retry: 2 } as const;
