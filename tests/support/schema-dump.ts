/**
 * An empty database, and the schema of a database as text.
 *
 * The dump is read from the catalogs, because the embedded PostgreSQL has no pg_dump. Invariant: it depends on nothing but the schema
 * `public`: sorted, roles by their part (`owner`, `@app_role@`), no oids, no names of databases.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { withDatabase } from './global-setup.ts';

/**
 * Makes an empty database on the server of `adminUrl`, runs `work` with its URLs and drops it. Fails when `work` left a connection open.
 */
export async function onEmptyDatabase<T>(
  server: { readonly adminUrl: string; readonly appUrl: string },
  work: (urls: {
    readonly adminUrl: string;
    readonly appUrl: string;
    readonly appRole: string;
  }) => Promise<T>,
): Promise<T> {
  const name = `t_${randomBytes(6).toString('hex')}`;
  await onClient(withDatabase(server.adminUrl, 'postgres'), (client) =>
    // Not template1, which nothing keeps empty.
    client.query(`create database ${name} template template0`),
  );
  try {
    return await work({
      adminUrl: withDatabase(server.adminUrl, name),
      appUrl: withDatabase(server.appUrl, name),
      appRole: decodeURIComponent(new URL(server.appUrl).username),
    });
  } finally {
    await onClient(withDatabase(server.adminUrl, 'postgres'), (client) =>
      client.query(`drop database ${name} with (force)`),
    );
  }
}

/** Connects, runs `work`, disconnects. */
export async function onClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'countersign-test' });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Definitions by object, each a list of lines in a fixed order. One row is one line. */
const CATALOG: readonly { readonly title: string; readonly sql: string }[] = [
  {
    title: 'tables',
    sql: `
      select 'table ' || c.relname || coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '')
               || case when c.relrowsecurity then ' row security' else '' end || e'\n'
               || coalesce(columns.lines, '') || coalesce(e'\n' || constraints.lines, '') || coalesce(e'\n' || indexes.lines, '')
               || coalesce(e'\n' || triggers.lines, '') || coalesce(e'\n' || grants.lines, '') as line
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
      left join lateral (
        select string_agg('  ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                 || case when a.attidentity = '' then '' else ' identity ' || a.attidentity::text end
                 || case when a.attnotnull then ' not null' else '' end
                 || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), ''), e'\n' order by a.attnum) as lines
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns on true
      left join lateral (
        -- Not-null constraints stand with their columns.
        select string_agg('  constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid), e'\n' order by k.contype, k.conname) as lines
        from pg_constraint k where k.conrelid = c.oid and k.contype <> 'n' and k.contype <> 't') as constraints on true
      left join lateral (
        select string_agg('  ' || regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE ', '') || case when i.indisvalid then '' else ' INVALID' end,
                 e'\n' order by i.indexrelid::regclass::text) as lines
        from pg_index i where i.indrelid = c.oid
          and not exists (select 1 from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = c.oid)) as indexes on true
      left join lateral (
        select string_agg('  ' || regexp_replace(pg_get_triggerdef(t.oid), '^CREATE ', '')
                 || case t.tgenabled when 'O' then '' else ' enabled ' || t.tgenabled::text end, e'\n' order by t.tgname) as lines
        from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) as triggers on true
      left join lateral (
        select string_agg('  grant ' || privileges || ' to ' || grantee, e'\n' order by grantee) as lines
        from (select coalesce(r.rolname, 'public') as grantee, string_agg(lower(x.privilege_type)
                       || case when x.is_grantable then ' with grant option' else '' end, ', ' order by x.privilege_type) as privileges
              from aclexplode(c.relacl) x left join pg_roles r on r.oid = x.grantee
              where x.grantee <> c.relowner group by 1) as g) as grants on true
      where c.relkind in ('r', 'p') order by c.relname`,
  },
  {
    title: 'views, sequences and other relations',
    sql: `
      select c.relkind::text || ' ' || c.relname as line
      from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
      where c.relkind not in ('r', 'p', 'i', 'I', 't') order by c.relname`,
  },
  {
    title: 'column grants',
    sql: `
      select c.relname || '.' || a.attname || ' ' || lower(x.privilege_type) || ' to ' || coalesce(r.rolname, 'public') as line
      from pg_attribute a join pg_class c on c.oid = a.attrelid
      join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
      cross join lateral aclexplode(a.attacl) x left join pg_roles r on r.oid = x.grantee order by 1`,
  },
  {
    title: 'functions',
    sql: `
      select trim(trailing e'\n' from pg_get_functiondef(p.oid)) || case when p.proacl is null then '' else e'\n' || p.proacl::text end as line
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'public'
      where not exists (select 1 from pg_depend d where d.objid = p.oid and d.deptype = 'e')
      order by p.proname, pg_get_function_identity_arguments(p.oid)`,
  },
  {
    title: 'types',
    sql: `
      select t.typtype::text || ' ' || t.typname as line
      from pg_type t join pg_namespace n on n.oid = t.typnamespace and n.nspname = 'public'
      where t.typtype <> 'c' and t.typelem = 0 order by t.typname`,
  },
  {
    title: 'policies and rules',
    sql: `
      select 'policy ' || tablename || ' ' || policyname || ' ' || cmd as line from pg_policies where schemaname = 'public'
      union all select 'rule ' || tablename || ' ' || rulename from pg_rules where schemaname = 'public' order by 1`,
  },
  {
    title: 'extensions and event triggers',
    sql: `
      select 'extension ' || extname as line from pg_extension where extname <> 'plpgsql'
      union all select 'event trigger ' || evtname from pg_event_trigger order by 1`,
  },
  {
    title: 'schema',
    sql: `
      select 'grant ' || string_agg(lower(x.privilege_type), ', ' order by x.privilege_type) || ' to ' || coalesce(r.rolname, 'public') as line
      from pg_namespace n cross join lateral aclexplode(n.nspacl) x left join pg_roles r on r.oid = x.grantee
      where n.nspname = 'public' and x.grantee <> n.nspowner group by r.rolname order by 1`,
  },
];

/** The schema `public` as text: the same for the same migrations, whatever the server, role names or order of creation. */
export async function dumpSchema(client: pg.Client, appRole: string): Promise<string> {
  const { rows: owners } = await client.query<{ name: string }>('select current_user as name');
  const parts: string[] = [
    '-- The migrated schema, read from the catalogs. Written by UPDATE_GOLDEN=1; tests compare.',
  ];
  for (const { title, sql } of CATALOG) {
    const { rows } = await client.query<{ line: string }>(sql);
    if (rows.length > 0) parts.push(`-- ${title}`, ...rows.map((row) => row.line));
  }
  let dump = `${parts.join('\n\n')}\n`;
  for (const [role, part] of [
    [appRole, '@app_role@'],
    [owners[0]?.name ?? '', 'owner'],
  ] as const)
    if (role !== '')
      dump = dump.replaceAll(new RegExp(`(?<= to |[{,])"?${RegExp.escape(role)}"?(?=$|[=/])`, 'gm'), part);
  return dump;
}
