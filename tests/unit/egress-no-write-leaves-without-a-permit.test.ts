/**
 * Guarantee: nothing but GET and HEAD leaves without a live permit, and nothing leaves for an origin that is not
 * listed, however the request is dressed up. A permit cannot be made, copied or forged outside `mintPermit`, serves
 * one fetch, and is worth nothing once closed. What was judged is what is sent.
 */
import { describe, expect, test } from 'vitest';
import { createEgress, mintPermit, type Permit } from '../../src/agents/egress.ts';
import type { Fetch } from '../../src/types.ts';

const API = 'https://api.github.com';
const BINDING = {
  actionId: 'action-1',
  actionHash: 'a'.repeat(64),
  fence: 7,
  sendBy: Number.POSITIVE_INFINITY,
};
const needsPermit = expect.objectContaining({ code: 'PERMIT_REQUIRED' });
const offList = expect.objectContaining({ code: 'EGRESS_REFUSED' });

interface Sent {
  readonly url: string;
  readonly method: string | undefined;
  readonly redirect: string | undefined;
  readonly headers: Headers;
  readonly body: string | null;
}

function world() {
  const sent: Sent[] = [];
  const underlying: Fetch = async (input, init) => {
    const body = init?.body instanceof ArrayBuffer ? new TextDecoder().decode(init.body) : null;
    sent.push({
      url: String(input),
      method: init?.method,
      redirect: init?.redirect,
      headers: new Headers(init?.headers),
      body,
    });
    return new Response('{}');
  };
  return { sent, egress: createEgress({ allowedOrigins: [API], underlying }) };
}

describe('reading', () => {
  test('GET and HEAD pass with their headers, and redirects are never left to the platform', async () => {
    const { egress, sent } = world();

    await egress.read(`${API}/repos`, { headers: { accept: 'json' }, redirect: 'follow' });
    await egress.read(new Request(`${API}/user`, { method: 'HEAD' }));

    expect(sent.map(({ url, method, redirect }) => ({ url, method, redirect }))).toEqual([
      { url: `${API}/repos`, method: 'GET', redirect: 'manual' },
      { url: `${API}/user`, method: 'HEAD', redirect: 'manual' },
    ]);
    expect(sent[0]?.headers.get('accept')).toBe('json');
  });

  test.each(['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'post', 'pAtCh', 'MERGE', 'GETS'])(
    '%s is refused',
    async (method) => {
      const { egress, sent } = world();

      await expect(egress.read(`${API}/x`, { method })).rejects.toEqual(needsPermit);
      await expect(egress.read(new Request(`${API}/x`, { method }))).rejects.toEqual(needsPermit);
      expect(sent).toEqual([]);
    },
  );

  test('a harmless Request with a write in init, or a subclass that lies about itself, is refused', async () => {
    class Liar extends Request {}
    Object.defineProperty(Liar.prototype, 'method', { get: () => 'GET' });
    Object.defineProperty(Liar.prototype, 'url', { get: () => `${API}/harmless` });
    const { egress, sent } = world();

    await expect(egress.read(new Request(`${API}/x`), { method: 'PUT' })).rejects.toEqual(needsPermit);
    await expect(egress.read(new Liar(`${API}/x`, { method: 'DELETE' }))).rejects.toEqual(needsPermit);
    await expect(egress.read(new Liar('https://evil.example/x'))).rejects.toEqual(offList);
    expect(sent).toEqual([]);
  });

  test('what is read twice is judged as it is sent', async () => {
    const { egress, sent } = world();
    const methods = ['GET', 'DELETE', 'DELETE'];
    const urls = [`${API}/ok`, 'https://evil.example/', 'https://evil.example/'];
    const init = {
      get method() {
        return methods.shift();
      },
    } as RequestInit;
    const url = { toString: () => urls.shift() } as unknown as string;

    await egress.read(url, init);

    expect(sent).toMatchObject([{ method: 'GET', url: `${API}/ok` }]);
  });

  test.each(['X-HTTP-Method-Override', 'x-http-method', 'X-Method-Override'])(
    'a GET that asks by %s to be another method is refused',
    async (header) => {
      const { egress, sent } = world();

      await expect(egress.read(`${API}/x`, { headers: { [header]: 'DELETE' } })).rejects.toEqual(needsPermit);
      expect(sent).toEqual([]);
    },
  );

  test("a caller's own dispatcher is not used", async () => {
    const seen: unknown[] = [];
    const egress = createEgress({
      allowedOrigins: [API],
      underlying: async (_input, init) => {
        seen.push(init);
        return new Response();
      },
    });

    await egress.read(`${API}/x`, { dispatcher: { dispatch: () => true } } as unknown as RequestInit);

    expect(seen).toHaveLength(1);
    expect(seen[0]).not.toHaveProperty('dispatcher');
  });
});

describe('origins', () => {
  test.each([
    'https://evil.example/',
    'http://api.github.com/',
    'https://api.github.com:8443/',
    'https://api.github.com.evil.example/',
    'https://api.github.com@evil.example/',
    'https://evil.example/https://api.github.com/',
    'https://user:pass@api.github.com/',
    'https:\\\\evil.example/',
    '//evil.example/',
    '/etc/passwd',
    'file:///etc/passwd',
    'data:text/plain,x',
    'blob:https://api.github.com/0b7f0d3e',
    'http://169.254.169.254/latest/meta-data/',
    'http://[::ffff:169.254.169.254]/',
    'http://2852039166/',
  ])('%s is refused, read or write', async (url) => {
    const { egress, sent } = world();
    const write = egress.write(mintPermit(BINDING));

    await expect(egress.read(url)).rejects.toEqual(offList);
    await expect(write(url, { method: 'POST' })).rejects.toEqual(offList);
    expect(sent).toEqual([]);
  });

  test.each([
    'api.github.com',
    'https://api.github.com/',
    'https://api.github.com/v3',
    'file://',
    'null',
    '*',
  ])('%s cannot be put on the list', (origin) => {
    expect(() => createEgress({ allowedOrigins: [origin] })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});

describe('a permit', () => {
  test('lets a write through, body and all, until it is closed', async () => {
    const { egress, sent } = world();
    const permit = mintPermit(BINDING);
    const write = egress.write(permit);

    await write(`${API}/merge`, { method: 'PUT', body: '{"sha":"1"}', redirect: 'follow' });
    permit.close();

    await expect(write(`${API}/merge`, { method: 'PUT' })).rejects.toEqual(needsPermit);
    expect(sent).toMatchObject([
      { url: `${API}/merge`, method: 'PUT', body: '{"sha":"1"}', redirect: 'manual' },
    ]);
    expect([permit.actionId, permit.actionHash, permit.fence, permit.sendBy]).toEqual(Object.values(BINDING));
  });

  test('closed while the request is being read stops it', async () => {
    const { egress, sent } = world();
    const permit = mintPermit(BINDING);

    const writing = egress.write(permit)(`${API}/merge`, { method: 'PUT', body: 'x' });
    permit.close();

    await expect(writing).rejects.toEqual(needsPermit);
    expect(sent).toEqual([]);
  });

  test('whose time has passed sends nothing, and says that another try may find out more', async () => {
    const { egress, sent } = world();
    const permit = mintPermit({ ...BINDING, sendBy: Date.now() - 1 });

    const writing = egress.write(permit)(`${API}/merge`, { method: 'PUT', body: 'x' });

    await expect(writing).rejects.toMatchObject({ code: 'TOOL_FAILED', errorClass: 'retryable' });
    expect(sent).toEqual([]);
  });

  test('serves one fetch, from one egress', () => {
    const { egress } = world();
    const permit = mintPermit(BINDING);
    egress.write(permit);

    expect(() => egress.write(permit)).toThrow(needsPermit);
    expect(() => world().egress.write(permit)).toThrow(needsPermit);
  });

  test('does not open the reading fetch', async () => {
    const { egress } = world();
    egress.write(mintPermit(BINDING));

    await expect(egress.read(`${API}/x`, { method: 'POST' })).rejects.toEqual(needsPermit);
  });

  test('cannot be forged', () => {
    const { egress } = world();
    const real = mintPermit(BINDING);
    const PermitClass = real.constructor as new (...args: unknown[]) => Permit;
    const forgeries: unknown[] = [
      { ...BINDING, close() {} },
      Object.create(Object.getPrototypeOf(real)),
      Object.create(real),
      new Proxy(real, {}),
      JSON.parse(JSON.stringify(real)),
      null,
      undefined,
    ];

    for (const forged of forgeries) expect(() => egress.write(forged as Permit)).toThrow(needsPermit);
    expect(() => new PermitClass(Symbol('mint'), BINDING)).toThrow(needsPermit);
    expect(() => new (class extends PermitClass {})(undefined, BINDING)).toThrow(needsPermit);
    expect(() => egress.write(structuredClone(real))).toThrow();
  });

  test('spent stays spent', () => {
    const permit = mintPermit(BINDING);
    permit.close();
    permit.close();

    expect(() => world().egress.write(permit)).toThrow(needsPermit);
  });
});
