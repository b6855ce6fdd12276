/**
 * OAuth v2 as an app's installation meets it: the authorize page, its redirect with a code, and `oauth.v2.access`.
 *
 * Invariants: a code is exchanged once, within ten minutes, for the redirect address it was asked with, by whoever
 * knows the client's secret; redirects lead to this machine only. There is one workspace and one installation, so
 * what is given out is the bot token that works anyway.
 */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Args } from './args.ts';
import { type Route, readBody, sameSecret } from './http.ts';
import { type SlackContext, SlackRefusal } from './messages.ts';
import { APP_ID, BOT_USER_ID, SCOPES, TEAM_ID } from './seed.ts';
import type { Json } from './types.ts';

const CODE_LIFE_MS = 10 * 60_000;
const LOOPBACK = new Set(['127.0.0.1', 'localhost', '[::1]']);

export interface OAuthClient {
  readonly clientId: string;
  readonly clientSecret: string;
  readonly botToken: string;
}

/** `GET /oauth/v2/authorize` shows who may allow it; its form leads back to the app, as Slack's page does. */
export function authorizeRoute(context: SlackContext, client: OAuthClient): Route {
  return async (request, response, url) => {
    if (url.pathname !== '/oauth/v2/authorize') return false;
    if (request.method === 'POST') await decide(context, client, request, response);
    else if (request.method === 'GET') show(context, client, response, url.searchParams);
    else return false;
    return true;
  };
}

/** Gives out a code as if `user` had pressed Allow, and returns it. */
export function grantCode(
  context: SlackContext,
  user: string,
  scope: string,
  redirectUri: string | null,
): string {
  const { data } = context.store;
  const now = Date.now();
  const code = `${now}.${randomBytes(24).toString('hex')}`;
  data.oauthCodes = [
    ...(data.oauthCodes ?? []).filter(({ expiresAtMs }) => expiresAtMs > now),
    { code, user, scope, redirectUri, expiresAtMs: now + CODE_LIFE_MS },
  ];
  context.store.touch();
  return code;
}

/** `oauth.v2.access`. `basic` is what an Authorization header of the Basic kind carried. */
export function accessMethod(
  client: OAuthClient,
): (context: SlackContext, args: Args, basic?: readonly [string, string]) => Json {
  return (context, args, basic) => {
    const { data } = context.store;
    const clientId = basic?.[0] ?? args.string('client_id');
    const clientSecret = basic?.[1] ?? args.string('client_secret');
    if (clientId !== client.clientId) throw new SlackRefusal('invalid_client_id');
    if (!sameSecret(clientSecret, client.clientSecret)) throw new SlackRefusal('bad_client_secret');
    if ((args.string('grant_type') ?? 'authorization_code') !== 'authorization_code')
      throw new SlackRefusal('invalid_grant_type');
    const code = args.string('code');
    const granted = data.oauthCodes?.find((candidate) => candidate.code === code);
    if (!granted || granted.expiresAtMs < Date.now()) throw new SlackRefusal('invalid_code');
    if ((args.string('redirect_uri') ?? null) !== granted.redirectUri)
      throw new SlackRefusal('bad_redirect_uri');
    data.oauthCodes = data.oauthCodes?.filter((candidate) => candidate !== granted) ?? [];
    context.store.touch();
    return {
      app_id: APP_ID,
      authed_user: { id: granted.user },
      scope: granted.scope,
      token_type: 'bot',
      access_token: client.botToken,
      bot_user_id: BOT_USER_ID,
      team: { id: TEAM_ID, name: 'Local workspace' },
      enterprise: null,
      is_enterprise_install: false,
    };
  };
}

function show(
  context: SlackContext,
  client: OAuthClient,
  response: ServerResponse,
  asked: URLSearchParams,
): void {
  const problem = problemWith(client, asked);
  if (problem !== undefined) {
    refuse(response, problem);
    return;
  }
  const fields = [...asked].map(
    ([name, value]) => `<input type="hidden" name="${escaped(name)}" value="${escaped(value)}">`,
  );
  const people = context.store.data.users.filter(
    (user) => !user.is_bot && !user.deleted && !user.is_restricted,
  );
  const buttons = people.map(
    ({ id, name }) => `<button name="user" value="${escaped(id)}">Allow as ${escaped(name)}</button>`,
  );
  const scopes = (asked.get('scope') ?? '')
    .split(',')
    .map((scope) => `<li>${escaped(scope)}</li>`)
    .join('');
  html(
    response,
    200,
    `<h1>Install Countersign in the local workspace?</h1><ul>${scopes}</ul><form method="post">${fields.join('')}${buttons.join(' ')} <button name="user" value="">Cancel</button></form>`,
  );
}

async function decide(
  context: SlackContext,
  client: OAuthClient,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const asked = new URLSearchParams((await readBody(request)).toString('utf8'));
  const problem = problemWith(client, asked);
  const redirectUri = asked.get('redirect_uri');
  const target = URL.parse(redirectUri ?? '');
  if (problem !== undefined || !target) {
    refuse(response, problem ?? 'bad_redirect_uri');
    return;
  }
  const user = context.store.user(asked.get('user') ?? '');
  if (asked.has('state')) target.searchParams.set('state', asked.get('state') ?? '');
  if (user && !user.is_bot && !user.deleted && !user.is_restricted)
    target.searchParams.set('code', grantCode(context, user.id, asked.get('scope') || SCOPES, redirectUri));
  else target.searchParams.set('error', 'access_denied');
  await context.store.flush();
  response.writeHead(302, { location: target.href, 'cache-control': 'no-store' });
  response.end();
}

function problemWith(client: OAuthClient, asked: URLSearchParams): string | undefined {
  if (asked.get('client_id') !== client.clientId) return 'invalid_client_id';
  const granted = new Set(SCOPES.split(','));
  const scopes = (asked.get('scope') ?? '').split(',').filter((scope) => scope !== '');
  if (!scopes.every((scope) => granted.has(scope))) return 'invalid_scope';
  const target = URL.parse(asked.get('redirect_uri') ?? '');
  if (!target || !/^https?:$/.test(target.protocol) || !LOOPBACK.has(target.hostname))
    return 'bad_redirect_uri';
  return undefined;
}

function refuse(response: ServerResponse, problem: string): void {
  html(response, 400, `<h1>Something is wrong with this installation link</h1><p>${problem}</p>`);
}

function html(response: ServerResponse, status: number, body: string): void {
  response.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  });
  response.end(`<!doctype html><meta charset="utf-8"><title>Local Slack</title>${body}`);
}

function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
