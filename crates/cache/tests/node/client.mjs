// Runs calls of a published client, one after the other, and prints what each returned.
//
//   client.mjs PACKAGE < calls.json      calls: [{ "op": "save", "paths": ["data"], "key": "k" }, …]
//
// Everything that starts with "RESULT " is ours; the rest is what the client says to a workflow's log.
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, createWriteStream, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'

const client = await import(process.argv[2])

async function * noise (size) {
  for (let left = size; left > 0; left -= Math.min(left, 1 << 20)) yield randomBytes(Math.min(left, 1 << 20))
}

async function digest (path) {
  if (!existsSync(path)) return null
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  return hash.digest('hex')
}

const operations = {
  feature: () => client.isFeatureAvailable(),
  save: ({ paths, key }) => client.saveCache(paths, key),
  restore: ({ paths, key, restore, options }) => client.restoreCache([...paths], key, restore, options),
  env: ({ name, value }) => { if (value === null) delete process.env[name]; else process.env[name] = value },
  remove: ({ path }) => rmSync(path, { recursive: true, force: true }),
  digest: ({ path }) => digest(path),
  write: async ({ path, size }) => {
    mkdirSync(dirname(path), { recursive: true })
    await pipeline(noise(size), createWriteStream(path))
    return digest(path)
  }
}

for (const call of JSON.parse(readFileSync(0, 'utf8'))) {
  const started = Date.now()
  let outcome
  try {
    outcome = { value: (await operations[call.op](call)) ?? null }
  } catch (error) {
    outcome = { error: String(error) }
  }
  console.log('\nRESULT ' + JSON.stringify({ ...outcome, ms: Date.now() - started }))
}
