// Compositions in one line: read, written and judged as condensery.recipe.spelling, condensery.recipe.writing and
// condensery.contract.Facts do; a test holds both to the same answers. Nothing here draws or touches the page.
"use strict";

const Builder = (() => {
  const FIELDS = ["name", "teacher", "student", "players", "epochs"];
  const ROLES = ["teacher", "student"];
  const ROLE_WORDS = ["previous", "input", "original"];
  const CONSTANTS = new Map([["true", true], ["false", false], ["null", null]]);
  const MAX_DEPTH = 20;
  const WORD = "[A-Za-z0-9_./:@#]|-(?!>)";
  const TOKEN = new RegExp(
    `(?<space>\\s+)|(?<sign>->|[+*(){}\\[\\],=])|(?<number>-?(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!${WORD}))`
    + `|(?<word>(?:${WORD})+(?:(?<=@epoch)=[0-9]+)?)|(?<quoted>"(?:[^"\\\\]|\\\\.)*"|'[^']*')`, "y");
  const KEY = /^(?!(?:then|with)$)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?$/;
  const NAME = /^[A-Za-z_][A-Za-z0-9_.#-]*$/;
  const FIRST_PASSES = 2;

  class SpellingError extends Error {}

  // A number as it was written: to Python 1.0 and 1 are not the same, and a long one loses its last digits here.
  class Numeral {
    constructor(text) { this.text = text; }
    toJSON() { return Number(this.text); }
  }

  // What a line names may be called like something that every object has.
  function own(map, key) {
    return Object.hasOwn(map, key) ? map[key] : undefined;
  }

  function quoted(text) {
    const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
    const safe = text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t");
    return mark + (mark === "'" ? safe.replaceAll("'", "\\'") : safe) + mark;
  }

  // ---------------------------------------------------------------- reading

  class Parser {
    constructor(text, what, names = []) {
      Object.assign(this, { text, what, names: new Set(names), tokens: [], at: 0, depth: 0 });
      for (let start = 0; start < text.length;) {
        const token = this.token(start);
        start += token.text.length;
        if (token.kind !== "space") this.tokens.push(token);
      }
      this.tokens.push({ kind: "end", text: "", start: text.length });
    }

    token(start) {
      const first = this.text[start];
      // A value can't begin with a sign, so this is the "=" of a formula: "sparsity==0.5", "[=round]".
      if (first === "=" && ["=", "[", ","].includes(this.tokens.at(-1)?.text)) {
        return { kind: "formula", text: formula(this.text, start), start };
      }
      TOKEN.lastIndex = start;
      const match = TOKEN.exec(this.text);
      if (!match) {
        const expected = `"'`.includes(first) ? "the quote to be closed" : "a key, a value or a sign";
        this.fail(expected, { kind: "", text: first, start });
      }
      const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
      return { kind, text: match[0], start };
    }

    fail(expected, token = this.here) {
      const { text: found, start } = token;
      const shown = found ? quoted(found.slice(0, 30)) : "the end";
      const near = `${this.text.slice(Math.max(0, start - 20), start)}^${this.text.slice(start, start + 20)}`;
      throw new SpellingError(
        `${this.what}: expected ${expected}, found ${shown} at column ${start + 1}, near ${quoted(near)}`);
    }

    get here() { return this.tokens[this.at]; }

    next() {
      const token = this.here;
      if (token.kind !== "end") this.at += 1;
      return token;
    }

    accept(...texts) {
      const found = texts.includes(this.here.text);
      if (found) this.next();
      return found;
    }

    expect(text, expected) {
      if (!this.accept(text)) this.fail(expected);
    }

    nest(by) {
      this.depth += by;
      if (this.depth > MAX_DEPTH) this.fail(`at most ${MAX_DEPTH} levels of brackets`);
    }

    // stages and rounds

    sequence() {
      const items = this.item();
      while (this.accept("->", "then")) items.push(...this.item());
      return items;
    }

    item() {
      if (!this.accept("(")) {
        const stage = this.stage();
        if (this.here.text === "*") this.fail("parentheses around what is repeated");
        return [stage];
      }
      this.nest(+1);
      const items = this.sequence();
      this.expect(")", "'->', '+' or ')'");
      this.nest(-1);
      if (["+", "with", "{"].includes(this.here.text)) {
        this.fail("'*', '->' or the end, as '+' and braces go inside the parentheses");
      }
      if (!this.accept("*")) return items;

      const count = this.next();
      if (!/^0*[1-9][0-9]{0,8}$/.test(count.text)) this.fail("a number of rounds, 1 or more", count);
      return [{ stages: items, repeat: Number(count.text) }];
    }

    stage() {
      const stage = { methods: [] };
      if (this.here.text === "{") {
        this.braces(stage);
      } else {
        do stage.methods.push(this.method(stage)); while (this.accept("+", "with"));
      }
      this.names.add(nameOf(stage));
      return stage;
    }

    method(stage) {
      const method = { key: this.key("method") };
      if (this.accept("(")) method.settings = this.settings(")");
      while (this.here.text === "{") this.braces(stage);
      return method;
    }

    key(what) {
      const token = this.next();
      if (!["word", "number"].includes(token.kind) || !KEY.test(token.text)) this.fail(`a ${what}`, token);
      return token.text;
    }

    braces(stage) {
      this.expect("{", "'{'");
      for (const [name, value] of Object.entries(this.settings("}", ROLES))) {
        if (!FIELDS.includes(name)) throw new SpellingError(`${this.what}: unknown stage field ${quoted(name)}; known: ${[...FIELDS].sort().join(", ")}`);
        if (Object.hasOwn(stage, name) && JSON.stringify(stage[name]) !== JSON.stringify(value)) {
          throw new SpellingError(`${this.what}: one stage has two values of ${name}`);
        }
        stage[name] = value;
      }
    }

    // values

    settings(closing, roles = []) {
      const found = Object.create(null);
      let some = false;
      while (!this.accept(closing)) {
        if (some) this.expect(",", `',' or '${closing}'`);
        some = true;
        const name = this.next();
        if (name.kind !== "word" || !NAME.test(name.text)) {
          this.fail(closing === ")" ? "a setting's name" : "a field's name", name);
        }
        if (name.text in found) this.fail("each name once", name);
        this.expect("=", "'='");
        found[name.text] = this.value(roles.includes(name.text));
      }
      return found;
    }

    value(role = false) {
      const token = this.next();
      if (token.kind === "formula") return token.text.trimEnd();
      if (token.kind === "number" || token.kind === "quoted") return this.literal(token);
      if (token.kind === "word") {
        if (this.here.text === "(") {
          this.at -= 1;
          return this.spec();
        }
        if (CONSTANTS.has(token.text)) return CONSTANTS.get(token.text);
        return role && this.isStage(token.text) ? `stage:${token.text}` : token.text;
      }
      if (!["[", "{"].includes(token.text)) this.fail("a value", token);

      this.nest(+1);
      const found = token.text === "{" ? this.settings("}") : this.list(role);
      this.nest(-1);
      return found;
    }

    list(role) {
      const values = [];
      while (!this.accept("]")) {
        if (values.length) this.expect(",", "',' or ']'");
        values.push(this.value(role));
      }
      return values;
    }

    isStage(word) {
      const name = word.split("@epoch=")[0];
      const dot = name.lastIndexOf(".");
      return !ROLE_WORDS.includes(word) && (this.names.has(name) || this.names.has(dot < 0 ? "" : name.slice(0, dot)));
    }

    literal(token) {
      if (token.kind === "number") {
        if (!Number.isFinite(Number(token.text))) this.fail("a smaller number", token);
        const whole = /^-?[0-9]+$/.test(token.text);
        if (whole && !/^-?(0|[1-9][0-9]*)$/.test(token.text)) this.fail("a text or number as in JSON", token);
        return new Numeral(token.text);
      }
      if (token.text[0] === "'") return token.text.slice(1, -1);
      try {
        return JSON.parse(token.text);
      } catch {
        return this.fail("a text or number as in JSON", token);
      }
    }

    spec() {
      const first = this.here;
      const key = this.key(this.what === "task" ? "task" : "model");
      this.nest(+1);
      const settings = this.accept("(") ? this.settings(")") : {};
      this.nest(-1);
      if ("key" in settings) this.fail("no setting 'key', as the key stands before the parentheses", first);
      return Object.assign(Object.create(null), { key }, settings);
    }
  }

  // Up to a "," or a closing bracket outside of its own brackets.
  function formula(text, start) {
    let depth = 0;
    for (let place = start; place < text.length; place += 1) {
      if (depth === 0 && ",)]}".includes(text[place])) return text.slice(start, place);
      if ("([{".includes(text[place])) depth += 1;
      else if (")]}".includes(text[place])) depth -= 1;
    }
    return text.slice(start);
  }

  // The stages and rounds of a line: {methods: [{key, settings}], name, teacher...} and {stages, repeat}.
  function parse(text) {
    if (text.trimEnd().endsWith("-")) {
      throw new SpellingError("quote the composition: an unquoted -> is a shell redirect, and the shell has made a file named as what follows it");
    }
    const parser = new Parser(text, "composition");
    const items = parser.sequence();
    parser.expect("", "'->', '+' or the end");
    return items;
  }

  // A model or a task: {key, its settings}.
  function parseSpec(text, what) {
    const parser = new Parser(text, what);
    const spec = parser.spec();
    parser.expect("", "'(' or the end");
    return spec;
  }

  // One value. names: of the stages so far, where it is a role.
  function parseValue(text, names) {
    const parser = new Parser(`[${text}]`, "value", names || []);
    const found = parser.value(Boolean(names));
    parser.expect("", "one value");
    if (found.length !== 1) throw new SpellingError("value: expected one value");
    return found[0];
  }

  // ---------------------------------------------------------------- writing

  function spell(items, names = new Set()) {
    return items.map((item) => {
      if (item.stages) return `(${spell(item.stages, names)}) * ${item.repeat}`;
      const text = spellStage(item, names);
      names.add(nameOf(item));
      return text;
    }).join(" -> ");
  }

  function spellStage(stage, names) {
    const methods = stage.methods.map(({ key, settings }) => {
      const said = pairs(settings || {});
      return said ? `${key}(${said})` : key;
    }).join(" + ");
    const given = FIELDS.filter((field) => stage[field] !== undefined)
      .map((field) => `${field}=${say(stage[field], ROLES.includes(field) ? names : undefined)}`);
    return methods + (given.length || !methods ? `{${given.join(", ")}}` : "");
  }

  function pairs(settings) {
    return Object.entries(settings).map(([name, value]) => `${name}=${say(value)}`).join(", ");
  }

  function say(value, names) {
    if (value instanceof Numeral) return value.text;
    if (typeof value === "string") {
      const shorter = names ? [value.replace(/^stage:/, ""), value] : [value];
      return shorter.find((text) => readsAs(text, value, names)) ?? JSON.stringify(value);
    }
    if (Array.isArray(value)) return `[${value.map((one) => say(one, names)).join(", ")}]`;
    if (value === null || typeof value !== "object") return JSON.stringify(value);
    const { key, ...rest } = value;
    return typeof key === "string" ? `${key}(${pairs(rest)})` : `{${pairs(value)}}`;
  }

  function readsAs(text, value, names) {
    try {
      return parseValue(text, names) === value;
    } catch {
      return false;
    }
  }

  // ---------------------------------------------------------------- names and roles

  // The name of a stage by itself, which the recipe numbers where it is taken.
  function nameOf(stage) {
    return String(toText(stage.name) || stage.methods.map((method) => method.key).join("+") || "train");
  }

  function toText(value) {
    return value instanceof Numeral ? value.text : value;
  }

  function* flat(items) {
    for (const item of items) {
      if (item.stages) yield* flat(item.stages);
      else yield item;
    }
  }

  // Stage -> its name in a recipe; names that were given come first.
  function namesOf(items) {
    const stages = [...flat(items)];
    const taken = new Set(stages.filter((stage) => stage.name).map((stage) => String(toText(stage.name))));
    const found = new Map();
    for (const stage of stages) {
      const wanted = nameOf(stage);
      let name = wanted;
      for (let number = 2; !stage.name && taken.has(name); number += 1) name = `${wanted}#${number}`;
      taken.add(name);
      found.set(stage, name);
    }
    return found;
  }

  function listOf(role) {
    if (role === undefined || role === null) return [];
    return Array.isArray(role) ? role : [role];
  }

  // The key of the model that a role asks for, nothing where it means a net that is there.
  function modelOf(role) {
    if (role && typeof role === "object" && typeof role.key === "string") return role.key;
    return typeof role === "string" && !ROLE_WORDS.includes(role) && !role.startsWith("stage:") ? role : undefined;
  }

  // ---------------------------------------------------------------- what methods need, leave and remove

  // The words of a method in a pass of its round; nothing where the method is unknown.
  function wordsOf(method, rules, number = 0, lists = true) {
    const known = own(rules.methods, method.key);
    if (!known?.cases) return undefined;
    const chosen = (name) => {
      const value = own(method.settings || {}, name);
      if (value === undefined) return known.by[name];
      return Array.isArray(value) ? (lists ? value[number] : known.by[name]) : value;
    };
    const fits = (when, read) => Object.entries(when).every(([name, value]) => read(name) === value);
    return known.cases.find(({ when }) => fits(when, chosen)) || known.cases.find(({ when }) => fits(when, (name) => known.by[name]));
  }

  // A stage whose methods need a teacher gets the original net, unless it names one or one of them brings it.
  function hasTeacher(stage, rules) {
    if (listOf(stage.teacher).length) return true;
    const all = stage.methods.map((method) => wordsOf(method, rules, 0, false));
    return all.every(Boolean) && all.some((words) => words.needs.includes("teacher")) && !all.some((words) => words.leaves.includes("teacher"));
  }

  // The words that hold for a fresh net; of one that isn't known, all that some net has.
  function start(model, task, rules) {
    const tasks = Object.values(rules.tasks);
    const own_ = task ? own(rules.tasks, task) : undefined;
    const net = own(rules.models, model || own_?.model || "");
    const all = (things) => things.flatMap((thing) => thing.words || []);
    return [...new Set([...(net?.words || all(Object.values(rules.models))), ...(own_ ? own_.words : all(tasks))])].sort();
  }

  // {words: what holds, taken: word -> [method, stage] that took it away}
  function facts(words) {
    return { words: new Set(words), taken: new Map() };
  }

  // As Facts.enter: check the methods of one stage in order, and apply what they leave and remove.
  // Returns nothing, or what is refused: {method, stage, word, by, text}.
  function enter(state, stage, methods, roles, meanings) {
    const here = new Set(roles);
    for (const [word, [, by]] of state.taken) if (by === stage) here.add(word);
    for (const [name, words] of methods) {
      for (const word of [...words.needs].sort()) {
        if (state.words.has(word) || here.has(word)) continue;
        const by = state.taken.get(word);
        const why = by ? `${by[0]} in stage ${quoted(by[1])} took them away` : "there are none here";
        const text = `${name} is not applicable: stage ${quoted(stage)} lacks ${meanings[word]} (${why})`;
        return { method: name, stage, word, by, text };
      }
      // A method that removes and leaves the same word has put something new in the place of the old.
      for (const word of words.removes) {
        state.words.delete(word);
        state.taken.set(word, [name, stage]);
        here.delete(word);
      }
      for (const word of words.leaves) state.words.add(word);
    }
    return undefined;
  }

  // The stages as a dry run meets them: of each, the first two passes.
  function* unroll(items, number = 0) {
    for (const item of items) {
      if (!item.stages) yield [item, number];
      else for (let pass = 0; pass < Math.min(item.repeat, FIRST_PASSES); pass += 1) yield* unroll(item.stages, pass);
    }
  }

  // Whether a composition is legal: {legal, refused, states: [[name of the stage, words after it]]}; words: at the start.
  // A stage may only follow what isn't refused, so the states end there. Methods that aren't known need nothing.
  function legal(items, words, rules, task = "") {
    const names = namesOf(items);
    const met = new Set();
    const states = new Map();
    let state = facts(words);
    for (const [stage, number] of unroll(items)) {
      const name = names.get(stage);
      if (met.has(`${name}:${number}`)) continue;
      met.add(`${name}:${number}`);

      const student = listOf(stage.student).map(modelOf).find((key) => key !== undefined);
      if (student !== undefined) state = facts(start(student, task, rules));
      const methods = [];
      for (const method of stage.methods) {
        const count = 1 + methods.filter(([other]) => other.split("#")[0] === method.key).length;
        const own_ = wordsOf(method, rules, number) || { needs: [], leaves: [], removes: [] };
        methods.push([count === 1 ? method.key : `${method.key}#${count}`, own_]);
      }
      const refused = enter(state, name, methods, hasTeacher(stage, rules) ? ["teacher"] : [], rules.words);
      if (refused) return { legal: false, refused, states: [...states] };
      states.set(name, [...state.words].sort());
    }
    return { legal: true, refused: undefined, states: [...states] };
  }

  // ---------------------------------------------------------------- what isn't known

  // Words of a composition that mean nothing, each {stage, method, name, text}: they are shown and never dropped.
  function problems(items, rules, nearest) {
    const found = [];
    const names = namesOf(items);
    const before = new Set();
    const near = (word, known) => (known.length ? `; nearest: ${nearest(word, known)}` : "");
    const met = new Set();
    for (const [stage, name] of names) {
      const add = (text, more = {}) => found.push({ stage, text: `stage ${quoted(name)}: ${text}`, ...more });
      if (met.has(name)) add("two stages have this name");
      met.add(name);
      for (const method of stage.methods) {
        const known = own(rules.methods, method.key);
        if (!known) {
          const keys = Object.keys(rules.methods);
          add(`no such method: ${method.key}${near(method.key, keys)}`, { method, nearest: nearest(method.key, keys) });
          continue;
        }
        if (known.problem) add(known.problem, { method });
        for (const [setting, value] of Object.entries(method.settings || {})) {
          const wrong = wrongValue(own(known.settings, setting), value);
          if (!own(known.settings, setting)) add(`${method.key} has no setting ${setting}${near(setting, Object.keys(known.settings))}`, { method, name: setting });
          else if (wrong) add(`${method.key}.${setting} ${wrong}`, { method, name: setting });
        }
      }
      roleProblems(stage, before, rules, nearest).forEach((text) => add(text));
      before.add(name);
    }
    return found;
  }

  function roleProblems(stage, before, rules, nearest) {
    const found = [];
    if (stage.student !== undefined && modelOf(stage.student) === undefined && stage.student !== "previous") {
      found.push(`student must be 'previous' or a model, got ${say(stage.student)}`);
    }
    for (const role of [...listOf(stage.teacher), ...listOf(stage.student)]) {
      const model = modelOf(role);
      const families = Object.keys(rules.models).filter((key) => key.endsWith("/*")).map((key) => key.slice(0, -1));
      const known = model === undefined || own(rules.models, model) || families.some((family) => model.startsWith(family));
      if (!known) found.push(`no such role or model: ${model}; nearest: ${nearest(model, [...ROLE_WORDS, ...before, ...Object.keys(rules.models)])}`);
      if (typeof role !== "string" || !role.startsWith("stage:")) continue;
      const name = role.slice("stage:".length).split("@epoch=")[0];
      if (!before.has(name) && !before.has(name.slice(0, Math.max(0, name.lastIndexOf("."))))) {
        found.push(`no net ${quoted(role)} at this point; there are ${["original", "input", ...before].join(", ")}`);
      }
    }
    return found;
  }

  // What is wrong with a value, in words; lists and formulas of a round are looked at when they run.
  function wrongValue(setting, value) {
    if (!setting || Array.isArray(value) || (typeof value === "string" && value.startsWith("="))) return "";
    if (setting.choices && !setting.choices.some((choice) => String(choice) === String(toText(value)))) {
      return `must be one of ${setting.choices.join(", ")}, got ${say(value)}`;
    }
    const types = { int: "a whole number", float: "a number", bool: "true or false" };
    const number = value instanceof Numeral;
    const right = { int: number && /^-?[0-9]+$/.test(value.text), float: number, bool: typeof value === "boolean" };
    if (setting.type in types && !right[setting.type] && value !== null) return `must be ${types[setting.type]}, got ${say(value)}`;
    if (!number) return "";
    const bounds = { gt: [">", (a, b) => a > b], ge: [">=", (a, b) => a >= b], lt: ["<", (a, b) => a < b], le: ["<=", (a, b) => a <= b] };
    const given = Object.entries(bounds).filter(([word]) => setting[word] !== undefined);
    if (given.every(([word, [, holds]]) => holds(value.toJSON(), setting[word]))) return "";
    return `must be ${given.map(([word, [sign]]) => `${sign} ${setting[word]}`).join(" and ")}, got ${value.text}`;
  }

  // The settings that a target may choose: those that say how much goes, and were left open.
  function amounts(items, rules) {
    return [...flat(items)].flatMap((stage) => stage.methods.flatMap(({ key, settings }) =>
      Object.entries(own(rules.methods, key)?.settings || {})
        .filter(([name, setting]) => setting.amount && own(settings || {}, name) === undefined)
        .map(([name]) => `${key}'s ${name}`)));
  }

  // ---------------------------------------------------------------- cells of the matrix

  // The pairs of a composition, each once: ["then", a, b] in stages one after the other, ["with", a, b] in one stage;
  // of a single method ["alone", a].
  function pairsOf(items) {
    const stages = [...flat(items)].map((stage) => stage.methods.map((method) => method.key));
    const found = new Map();
    const add = (...pair) => found.set(pair.join(" "), pair);
    stages.forEach((keys, number) => keys.forEach((key, place) => {
      for (const other of keys.slice(place + 1)) add("with", ...[key, other].sort());
      for (const later of stages.slice(number + 1).flat()) add("then", key, later);
    }));
    const all = stages.flat();
    if (all.length === 1) add("alone", all[0]);
    return [...found.values()];
  }

  // What a pair came to on each net: {net: outcome}, without those that weren't run.
  function outcomes([kind, ...methods], rules) {
    const keys = Object.keys(rules.methods);
    const places = methods.map((key) => keys.indexOf(key));
    const found = Object.create(null);
    for (const [net, kinds] of Object.entries(rules.cells)) {
      const row = kinds[kind]?.[kind === "alone" ? 0 : places[0]];
      const outcome = rules.outcomes[row?.[places.at(-1)] || "."];
      if (outcome !== rules.outcomes["."]) found[net] = outcome;
    }
    return found;
  }

  // ---------------------------------------------------------------- other orders

  // The compositions of the same stages in other orders, and of all of them at once; names and roles stay with them.
  function orders(items) {
    const found = [];
    const places = [...items.keys()];
    if (places.length > 4) {
      for (const place of places.slice(1)) found.push(swapped(places, place - 1, place));
    } else {
      found.push(...permutations(places).slice(1));
    }
    const lines = found.map((order) => spell(order.map((place) => items[place])));
    const stages = items.filter((item) => !item.stages);
    const given = stages.flatMap((stage) => FIELDS.filter((field) => stage[field] !== undefined));
    if (stages.length > 1 && stages.length === items.length && new Set(given).size === given.length) {
      lines.push(spell([Object.assign({}, ...stages, { methods: stages.flatMap((stage) => stage.methods) })]));
    }
    if (items.length === 1 && stages.length === 1 && stages[0].methods.length > 1) {
      const [{ methods, ...fields }] = stages;
      for (const order of permutations([...methods.keys()].slice(0, 3))) {
        lines.push(spell(order.map((place, number) => ({ methods: [methods[place]], ...(number ? {} : fields) }))));
      }
    }
    return [...new Set(lines)].filter((line) => line !== spell(items));
  }

  function swapped(places, a, b) {
    return places.map((place) => (place === a ? b : place === b ? a : place));
  }

  function permutations(places) {
    if (places.length < 2) return [places];
    return places.flatMap((first) => permutations(places.filter((place) => place !== first)).map((rest) => [first, ...rest]));
  }

  // ---------------------------------------------------------------- to copy

  // Within double quotes as far as a shell leaves the text alone there.
  function shell(text) {
    if (!/["$`\\!]/.test(text)) return `"${text}"`;
    return `'${text.replaceAll("'", `'\\''`)}'`;
  }

  function command(line, model, task) {
    const options = [["--model", model], ["--task", task]].filter(([, value]) => value);
    const said = options.map(([name, value]) => ` ${name} ${/^[\w./-]+$/.test(value) ? value : shell(value)}`);
    return `condensery compose ${shell(line)}${said.join("")}`;
  }

  function python(line, target) {
    const aimed = target.figure ? `, target={${JSON.stringify(target.figure)}: ${target.most}}` : "";
    return ["import condensery", "", "# net: your trained torch module; loaders of (inputs, labels)",
      `result = condensery.compress(net, ${JSON.stringify(line)}, train=train, test=test${aimed})`,
      "print(result)", 'result.save("net.safetensors")'].join("\n");
  }

  // A recipe file of what the command runs.
  function recipe(items, model, task, rules) {
    const on = parseSpec(task || "digits", "task");
    const known = own(rules.tasks, on.key);
    const lines = [`model: ${json(model ? parseSpec(model, "model") : known?.model || "")}`, `task: ${json(on)}`];
    if (known) lines.push(`train: ${json(known.train)}`);
    return [...lines, "stages:", ...recipeItems(items, "")].join("\n") + "\n";
  }

  function recipeItems(items, indent) {
    return items.flatMap((item) => {
      const fields = item.stages
        ? [`repeat: ${item.repeat}`, "stages:", ...recipeItems(item.stages, "")]
        : [...FIELDS.filter((field) => item[field] !== undefined).map((field) => `${field}: ${json(item[field])}`),
          item.methods.length ? "methods:" : "methods: []",
          ...item.methods.map(({ key, settings }) => `- {key: ${json(key)}, settings: ${json(settings || {})}}`)];
      return fields.map((field, number) => `${indent}${number ? "  " : "- "}${field}`);
    });
  }

  // JSON, which is YAML too, with a space behind each sign, and numbers as they were written.
  function json(value) {
    if (value instanceof Numeral) return /^-?(0|[1-9][0-9]*)(\.[0-9]+)?$/.test(value.text) ? value.text : JSON.stringify(value);
    if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
    if (value === null || typeof value !== "object") return JSON.stringify(value);
    return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${json(inner)}`).join(", ")}}`;
  }

  return {
    FIELDS, ROLES, ROLE_WORDS, Numeral, SpellingError, parse, parseSpec, parseValue, spell, say, nameOf, namesOf, flat, listOf,
    wordsOf, hasTeacher, start, facts, enter, legal, problems, amounts, pairsOf, outcomes, orders, command, python, recipe, own,
  };
})();
