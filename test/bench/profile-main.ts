import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector'
import { isMainThread } from 'node:worker_threads'

/** Imported before a gateway: profiles the thread that serves calls, and no other (the profiler makes a thread that mostly sleeps ten times as dear), into the file PROFILE. */
if (isMainThread) {
  const session = new Session()
  session.connect()
  session.post('Profiler.enable')
  session.post('Profiler.start')
  process.once('exit', () => session.post('Profiler.stop', (_error, { profile }) => writeFileSync(process.env['PROFILE']!, JSON.stringify(profile))))
}
