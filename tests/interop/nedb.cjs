// Runs operations, from a file of JSON, on an in-memory NeDB; prints what each came to.
const fs = require("fs");
const util = require("util");

// NeDB 1.8 asks for functions that Node has dropped since.
for (const [name, check] of [
  ["isArray", Array.isArray],
  ["isDate", (value) => value instanceof Date],
  ["isRegExp", (value) => value instanceof RegExp],
]) {
  util[name] = util[name] || check;
}
const Datastore = require("nedb");

const call = (object, name, ...given) =>
  new Promise((done) => object[name](...given, (error, result) => done(error ? { error: String(error.message || error) } : { result })));

async function run(operations) {
  const db = new Datastore();
  const told = [];
  for (const [name, ...given] of operations) {
    if (name === "find") {
      const [filter, sort, skip, limit, projection] = given;
      let cursor = db.find(filter);
      if (sort) cursor = cursor.sort(sort);
      if (skip) cursor = cursor.skip(skip);
      if (limit) cursor = cursor.limit(limit);
      if (projection) cursor = cursor.projection(projection);
      told.push(await call(cursor, "exec"));
    } else if (name === "index") {
      told.push(await call(db, "ensureIndex", { fieldName: given[0] }));
    } else {
      told.push(await call(db, name, ...given));
    }
  }
  return told;
}

(async () => {
  const stories = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
  const told = [];
  for (const operations of stories) told.push(await run(operations));
  console.log(JSON.stringify(told));
})();
