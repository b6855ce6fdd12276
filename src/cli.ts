#!/usr/bin/env node
/**
 * The `countersign` command. Verbs are thin: they read configuration, call a room, print. Every failure is one line on standard error and
 * a status other than 0.
 */
import { assertNodeVersion } from './node-version.ts';

assertNodeVersion();
const { run } = await import('./commands.ts');
await run(process.argv);
