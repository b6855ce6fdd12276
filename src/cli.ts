#!/usr/bin/env node
/**
 * The `countersign` command. Verbs are thin: they read configuration, call a room, print. Every failure is one line on standard error and
 * a status other than 0.
 */
import { enableCompileCache } from 'node:module';
import path from 'node:path';
import { assertNodeVersion } from './node-version.ts';

assertNodeVersion();
// Compiled code is kept between starts; beside the packages and not in the shared temporary folder, where others could write it.
enableCompileCache(path.join(import.meta.dirname, '../node_modules/.cache/node'));
const { run } = await import('./commands.ts');
await run(process.argv);
