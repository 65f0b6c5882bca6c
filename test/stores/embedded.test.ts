// test: timeout 240 s
import t from 'tap'
import { storeSuite } from './conformance.ts'
import { embeddedIn, newDir } from './embedded-fixture.ts'

const dirs = new Map<object, string>()
const openIn = async (dir: string) => {
  const store = await embeddedIn(dir)
  dirs.set(store, dir)
  return store
}

storeSuite(t, {
  name: 'embedded',
  open: () => openIn(newDir(t)),
  reopen: async (store) => {
    await store.close()
    return openIn(dirs.get(store)!)
  },
  supports: { durable: true, damage: null },
  skip: {},
})
