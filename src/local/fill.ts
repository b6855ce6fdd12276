/**
 * Fills what is not configured with local parts: `countersign dev`.
 *
 * Invariant: only gaps are filled, part by part: a part (database, Slack, model, GitHub) whose credential is set is taken as it is
 * configured, one whose credential is missing is local as a whole. Loaded dynamically by the command line, never by `serve`.
 */
import path from 'node:path';
import {
  type Config,
  digestConfig,
  readPolicyFile,
  signingSecrets,
  slackReceiver,
  type Variables,
} from '../config.ts';
import { CountersignError } from '../errors.ts';
import { launchWorld, stopWorld } from './launch-world.ts';
import { type EmbeddedPostgres, startPostgres } from './postgres.ts';
import { share } from './sharing.ts';
import type { World } from './world.ts';

export interface Filled {
  readonly config: Config;
  /** The page of the local world, with its token; null when everything outside is real. */
  readonly pageUrl: string | null;
  /** Whether another process of the product uses the same local parts already. */
  readonly withOthers: boolean;
  /** Stops the local parts, unless another process uses them: that one then has the local Slack. They survive a crash of the product. */
  stop(): Promise<void>;
}

/** Who may do what in the local Slack: two reviewers, and everybody but the guest may ask. */
function localPolicy(teamId: string) {
  const reviewers = ['U0REVIEWERA', 'U0REVIEWERB'].map((userId) => ({ teamId, userId }));
  return { admins: reviewers.slice(0, 1), reviewers, requesters: 'members', quorum: 1 };
}

/** `#general` of the local Slack. */
const LOCAL_DIGEST_CHANNEL = 'C0GENERAL';

/** Throws LOCAL_WORLD_FAILED or CONFIG_INVALID with one line that says what to do. */
export async function fillConfig(variables: Variables): Promise<Filled> {
  if ((variables.SLACK_BOT_TOKEN === undefined) !== (slackReceiver(variables) === null))
    throw new CountersignError(
      'CONFIG_INVALID',
      'SLACK_BOT_TOKEN and one of SLACK_APP_TOKEN and SLACK_SIGNING_SECRET belong together: set both, or neither for the local Slack',
    );
  if (variables.PORT === 0)
    throw new CountersignError('CONFIG_INVALID', 'PORT must be a port that the local Slack can reach');
  const stateDir = path.resolve(variables.COUNTERSIGN_STATE_DIR);
  const worldDir = path.join(stateDir, 'world');
  const needsWorld =
    variables.SLACK_BOT_TOKEN === undefined ||
    variables.ANTHROPIC_API_KEY === undefined ||
    variables.GITHUB_TOKEN === undefined;
  const needsPostgres = variables.DATABASE_URL === undefined;

  const used = needsWorld || needsPostgres ? await local('state folder', async () => share(stateDir)) : null;
  const [postgres, world] = await Promise.all([
    needsPostgres ? local('database', () => startPostgres({ stateDir })) : null,
    needsWorld ? local('world', () => launchWorld({ stateDir: worldDir })) : null,
  ]);
  const eventsUrl = `http://127.0.0.1:${variables.PORT}/slack/events`;
  const eventsUrlBefore = world ? await local('world', () => world.connect(eventsUrl)) : null;
  return {
    config: configOf(variables, postgres, world),
    pageUrl: world?.pageUrl ?? null,
    withOthers: used?.withOthers ?? false,
    async stop() {
      const wasLast = await used?.end(async () => {
        if (world) await stopWorld(worldDir);
        await postgres?.stop();
      });
      // The local Slack speaks to one of them: to the other again.
      if (wasLast === false && eventsUrlBefore !== null) await world?.connect(eventsUrlBefore);
    },
  };
}

function configOf(variables: Variables, postgres: EmbeddedPostgres | null, world: World | null): Config {
  const localSlack = variables.SLACK_BOT_TOKEN === undefined;
  const localGitHub = variables.GITHUB_TOKEN === undefined;
  const scripted = variables.ANTHROPIC_API_KEY === undefined;
  return {
    databaseUrl: variables.DATABASE_URL ?? need(postgres).appUrl,
    databaseAdminUrl:
      variables.DATABASE_URL === undefined ? need(postgres).adminUrl : (variables.DATABASE_ADMIN_URL ?? null),
    slack: {
      botToken: variables.SLACK_BOT_TOKEN ?? need(world).slack.botToken,
      receiver: slackReceiver(variables) ?? {
        kind: 'http',
        signingSecrets: signingSecrets(need(world).slack.signingSecret, variables),
      },
      apiUrl: localSlack ? need(world).slack.apiUrl : (variables.SLACK_API_URL ?? null),
    },
    model: scripted
      ? {
          apiKey: need(world).model.apiKey,
          baseUrl: need(world).model.baseUrl,
          name: 'scripted',
          label: 'scripted model',
        }
      : {
          apiKey: variables.ANTHROPIC_API_KEY ?? '',
          baseUrl: variables.ANTHROPIC_BASE_URL ?? null,
          name: variables.COUNTERSIGN_MODEL,
          label: variables.COUNTERSIGN_MODEL,
        },
    github: localGitHub
      ? { token: need(world).github.token, apiUrl: need(world).github.apiUrl, credential: 'local-github' }
      : { token: variables.GITHUB_TOKEN ?? '', apiUrl: variables.GITHUB_API_URL, credential: 'github-token' },
    policy:
      variables.COUNTERSIGN_POLICY !== undefined
        ? readPolicyFile(variables.COUNTERSIGN_POLICY)
        : localSlack
          ? localPolicy(need(world).slack.teamId)
          : { admins: [], reviewers: [], requesters: 'members' },
    applyPolicy: true,
    mayWrite: !localSlack || localGitHub,
    digest: digestConfig(variables, localSlack ? LOCAL_DIGEST_CHANNEL : null),
    host: '127.0.0.1',
    port: variables.PORT,
    logLevel: variables.COUNTERSIGN_LOG_LEVEL,
    suspendAfterEveryStep: variables.COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP,
  };
}

function need<T>(part: T | null): T {
  if (part === null) throw new Error('a local part that is needed was not started');
  return part;
}

async function local<T>(what: string, start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CountersignError('LOCAL_WORLD_FAILED', `The local ${what} did not start: ${why}`, {
      cause: error,
    });
  }
}
