// faults.md, section 4.2: request line, Host, path.

import t from 'tap'
import { runRows, type Row } from './door.ts'

const line = (text: string, headers = 'Host: h\r\n'): string => `${text}\r\n${headers}\r\n`
const get = (target: string, headers?: string): string => line(`GET ${target} HTTP/1.1`, headers)
const refused = (id: string, what: string, bytes: string, status: number | readonly number[] = 400): Row => ({ id, what, bytes, status })
const served = (id: string, what: string, bytes: string, path: string, query = ''): Row =>
  ({ id, what, bytes, status: 200, served: true, check: (t, seen) => t.same([seen.path, seen.query], [path, query]) })

const rows: Row[] = [
  ...['http://evil.test/p', 'file:///etc/passwd', 'http://h@evil.test/p', 'http://h:1/p', 'ftp://h/p', 'evil.test/p', 'http:/h/p'].map((target) => refused('L1', target, get(target))),
  served('L1', 'absolute form that names this host is the path in it', get('http://h/v1/x?a=1'), '/v1/x', 'a=1'),
  { id: 'L1', what: 'absolute form without a path is the root', bytes: get('http://h'), status: 200, served: 'here' },
  ...['//evil.test/p', '/\\evil', '/\\\\evil/..\\p', '//'].map((target) => refused('L2', target, get(target))),
  ...['/v1/../admin', '/v1/..', '/./v1', '/v1/%2e%2e/admin', '/v1/.%2e/admin', '/v1/..%2fadmin', '/v1/.%09./x', '/v1;/../x', '/v1/..;/x', '/v1/%252e%252e/x', '/%c0%ae%c0%ae/x',
    '/v1%5cx', '/v1/%2Fx', '/v1/%', '/v1/%zz', '/v1/%ff'].map((target) => refused('L3', target, get(target))),
  ...['/v1//chat/completions', '/v1/chat/', '/V1/chat', '/%76%31/chat', '/v1/...', '/v1/a..b'].map((target) =>
    served('L4', `${target} reaches the router byte for byte`, get(target), target)),
  refused('L5', 'a fragment', get('/p#x')),
  ...['/p%0d%0ax', '/p%00', '/p%7f'].map((target) => refused('L6', target, get(target))),
  served('L6', 'escapes in the query stay escapes', get('/p?a=%0d%0a%00'), '/p', 'a=%0d%0a%00'),
  ...['/p\xe9', '/p\0', '/p q', '/p\tq'].map((target) => refused('L7', JSON.stringify(target), get(target))),
  refused('L8', 'GET *', get('*')),
  { id: 'L8', what: 'OPTIONS * is answered with Allow', bytes: line('OPTIONS * HTTP/1.1'), status: 204, served: 'here' },
  refused('L9', 'CONNECT', line('CONNECT evil.test:443 HTTP/1.1'), 405),
  refused('L10', 'TRACE', line('TRACE /v1/x HTTP/1.1', 'Host: h\r\nX-Secret: s\r\n'), 405),
  refused('L10', 'TRACK', line('TRACK /v1/x HTTP/1.1'), [400, 405]),
  refused('L11', 'an unknown method', line('FETCH /v1/x HTTP/1.1')),
  refused('L11', 'a lower-case method', line('get /v1/x HTTP/1.1')),
  refused('L12', 'HTTP/0.9', line('GET /v1/x HTTP/0.9'), [400, 505]),
  refused('L12', 'a request line without a version', line('GET /v1/x'), [400, 505]),
  refused('L12', 'HTTP/2.0', line('GET /v1/x HTTP/2.0'), [400, 505]),
  refused('L13', 'HTTP/1.2', line('GET /v1/x HTTP/1.2'), [400, 505]),
  refused('L14', 'the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', [400, 505]),
  refused('L15', 'no Host', get('/v1/x', '')),
  { ...served('L15', 'HTTP/1.0 needs none', line('GET /v1/x HTTP/1.0', ''), '/v1/x'), closes: true },
  refused('L16', 'two Hosts', get('/v1/x', 'Host: h\r\nHost: h\r\n')),
  ...['a/#@evil', 'user@a', 'a:99999', '', 'a,b', 'a b', 'a\0b', 'a'.repeat(1_024), '[::1', 'a:'].map((host) =>
    refused('L17', `Host ${JSON.stringify(host.slice(0, 20))}`, get('/v1/x', `Host: ${host}\r\n`))),
  ...['a', 'a.example:8080', '[::1]:80', '127.0.0.1', 'my_service'].map((host) => served('L17', `Host ${host}`, get('/v1/x', `Host: ${host}\r\n`), '/v1/x')),
  refused('L18', 'a target of 17 KB', get(`/${'a'.repeat(17_000)}`), 414),
  refused('L18', 'a target of 40 KB', get(`/${'a'.repeat(40_000)}`), 414),
  served('L18', '1,000 query parameters are not looked into', get(`/p?${'a=1&'.repeat(1_000)}`), '/p', 'a=1&'.repeat(1_000)),
  ...['X-Forwarded-Host: evil', 'Forwarded: host=evil', 'X-Original-URL: /admin', 'X-HTTP-Method-Override: DELETE', 'X-Rewrite-URL: /admin', 'X-Real-IP: 9.9.9.9', 'X-Forwarded-For: 9.9.9.9'].map((header): Row => ({
    id: 'L19', what: `${header} changes nothing`, bytes: get('/v1/x', `Host: h\r\n${header}\r\n`), status: 200, served: true,
    check: (t, seen) => t.same([seen.method, seen.path, seen.address], ['GET', '/v1/x', '127.0.0.1']) })),
]

t.test('every row of section 4.2, with a marker behind it', (t) => runRows(t, rows))
