// Lays out /openapi.json as a page. Needs nothing from elsewhere, and knows of OpenAPI only what that document uses.
// Everything is put into the page as text, never as HTML, and nothing has a style attribute: the server's
// Content-Security-Policy is `default-src 'self'`.

const main = document.querySelector("#main");
const contents = document.querySelector("#contents");
const status = document.querySelector("#status");

/** The description, once it is here. */
let api;
/** Schemas that something links to, in the order met: the last chapter shows exactly these. */
const linked = new Set();
/** Commands to be written anew when the box about keys is ticked. */
const commands = [];

// ---------------------------------------------------------------------------------------------------------------
// Small tools.

/** An element: `el("a", {href: "/"}, "text", node, ...)`. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** What `{"$ref": "#/a/b"}` points at; anything else is itself. `~1` in it is a slash of a name. */
function follow(node) {
  const name = (key) => key.replaceAll("~1", "/").replaceAll("~0", "~");
  return node?.$ref ? node.$ref.slice(2).split("/").reduce((at, key) => at[name(key)], api) : node;
}

const last = (path) => path.slice(path.lastIndexOf("/") + 1);
const spaced = (name) => name.replace(/(?<=[a-z])(?=[A-Z])/g, " ");

/** Characters on a line of an example. */
const columns = Math.max(24, Math.min(84, Math.floor((innerWidth - 160) / 8)));

/** JSON with short items side by side, so that a timer takes six lines and not twenty. */
function pretty(value, indent = "") {
  const one = spacedOut(value);
  if (typeof value !== "object" || !value || (indent + one).length <= columns) return one;
  const inner = indent + "  ";
  const isList = Array.isArray(value);
  const items = Object.entries(value).map(([k, v]) => (isList ? "" : JSON.stringify(k) + ": ") + pretty(v, inner));
  const lines = [];
  for (const item of items) {
    const joined = lines.length ? `${lines.at(-1)}, ${item}` : item;
    if (lines.length && !joined.includes("\n") && (inner + joined).length <= columns) lines.splice(-1, 1, joined);
    else lines.push(item);
  }
  const [open, close] = isList ? "[]" : "{}";
  return `${open}\n${lines.map((text) => inner + text).join(",\n")}\n${indent}${close}`;
}

/** JSON on one line, with a blank after each comma and colon. */
function spacedOut(value) {
  if (Array.isArray(value)) return `[${value.map(spacedOut).join(", ")}]`;
  if (typeof value !== "object" || !value) return JSON.stringify(value);
  return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${spacedOut(v)}`).join(", ")}}`;
}

// ---------------------------------------------------------------------------------------------------------------
// Text: the little of Markdown that the description uses.

/** `code` within a line. */
function inline(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", null, part) : part));
}

/** Paragraphs, `##` headings, lists and tables. */
function markdown(text) {
  return (text ?? "").split("\n\n").flatMap((block) => {
    const lines = block.split("\n");
    const heading = lines[0].startsWith("## ") ? lines.shift().slice(3) : null;
    const nodes = heading ? [el("h2", { id: slug(heading) }, heading)] : [];
    if (lines.length === 0) return nodes;
    if (lines[0].startsWith("| ")) return [...nodes, markdownTable(lines)];
    const isList = lines[0].startsWith("- ");
    const items = lines.map((line) => el("li", null, inline(line.slice(2))));
    return [...nodes, isList ? el("ul", null, items) : el("p", null, inline(lines.join(" ")))];
  });
}

const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-");

function markdownTable(lines) {
  const cells = (line) => line.split("|").slice(1, -1).map((cell) => inline(cell.trim()));
  const [head, , ...rows] = lines;
  return table(cells(head), rows.map(cells), lines[0].replaceAll("|", " ").trim());
}

/** A table that scrolls by itself where the window is narrow; by keyboard, too. */
function table(head, rows, label) {
  const row = (cells) => el("tr", null, cells.map((c, i) => el(i ? "td" : "th", i ? null : { scope: "row" }, c)));
  return el("div", { class: "scroll", role: "region", "aria-label": `Table: ${label}`, tabindex: 0 },
    el("table", null,
      el("thead", null, el("tr", null, head.map((cell) => el("th", { scope: "col" }, cell)))),
      el("tbody", null, rows.map(row))));
}

// ---------------------------------------------------------------------------------------------------------------
// Schemas.

/** The type in words, named objects as links (with another text, if there is one). */
function typeOf(schema, text) {
  if (schema.$ref) {
    const name = last(schema.$ref);
    linked.add(name);
    return [el("a", { href: `#object-${name}` }, text ?? spaced(name))];
  }
  if (schema.oneOf) return schema.oneOf.flatMap((one, i) => [i ? " or " : "", ...typeOf(one)]);
  if (schema.enum) return schema.enum.flatMap((word, i) => [i ? ", " : "", el("code", null, word)]);
  if ("const" in schema) return [el("code", null, schema.const)];
  if ([schema.type].flat()[0] === "array") {
    const plain = [schema.items.type].flat().map((type) => `${type}s`).join(" or ");
    const list = ["list of ", ...(schema.items.$ref ? typeOf(schema.items) : [plain])];
    return schema.type === "array" ? list : [...list, " or null"];
  }
  const type = [schema.type ?? "anything"].flat().join(" or ");
  return [schema.format === "date-time" ? type.replace("string", "time") : type];
}

/** Bounds and default in words. */
function boundsOf({ minimum, maximum, minLength, maxLength, minItems, maxItems, items, default: preset }) {
  const range = (low, high) => (high === undefined ? `at least ${low}` : `${low ?? 0} to ${high}`);
  const words = [];
  if (minimum !== undefined || maximum !== undefined) words.push(range(minimum, maximum));
  if (maxLength !== undefined) words.push(`${range(minLength, maxLength)} characters`);
  if (maxItems !== undefined) words.push(minItems ? range(minItems, maxItems) : `at most ${maxItems}`);
  if (items?.maximum !== undefined) words.push(`each ${range(items.minimum, items.maximum)}`);
  if (preset !== undefined) words.push(`default ${JSON.stringify(preset)}`);
  return words.map((word) => `, ${word}`).join("");
}

/** One entry of a list of fields. */
function field(name, schema, note, text) {
  return [
    el("dt", null, el("code", { class: "field" }, name), " ",
      el("span", { class: "type" }, typeOf(schema), boundsOf(schema)),
      note ? el("strong", { class: "note" }, note) : null),
    el("dd", null, inline(text ?? follow(schema).description ?? "")),
  ];
}

/** The fields of an object; `marked`: say which are required. */
function fields(schema, marked) {
  const note = (name) => (marked && schema.required?.includes(name) ? "required" : null);
  return el("dl", null, Object.entries(schema.properties ?? {}).map(([name, one]) => field(name, one, note(name))));
}

// ---------------------------------------------------------------------------------------------------------------
// Code that can be copied.

/** An example as it goes over the line: text as it is, anything else as JSON. */
const written = (value) => (typeof value === "string" ? value.trimEnd() : pretty(value));

const block = (text) => el("pre", null, el("code", null, text));

function copyable(node, what) {
  const button = el("button", { type: "button", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copy(node);
    button.textContent = done ? "Copied" : "Selected";
    status.textContent = done ? `Copied ${what}` : "The text is selected: copy it by keyboard";
    setTimeout(() => { button.textContent = "Copy"; status.textContent = ""; }, 2000);
  });
  return el("div", { class: "copyable" }, node, button);
}

/** The clipboard is closed to pages that came by plain HTTP, as in most schools: then the old way, or a selection. */
async function copy(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

/** The examples of a body or an answer, each under its title; many short ones as a table. */
function examples({ schema, example, examples: several }) {
  if (several) {
    const rows = Object.values(several).map((one) => [one.summary, written(one.value)]);
    if (rows.length > 2 && rows.every(([, text]) => !text.includes("\n"))) {
      return table(["case", "JSON"], rows.map(([title, text]) => [inline(title), el("code", null, text)]), "examples");
    }
    return rows.map(([title, text]) => [el("p", { class: "title" }, title), block(text)]);
  }
  const shown = example ?? follow(schema).examples?.[0];
  return shown === undefined ? [] : [block(written(shown))];
}

function firstExample({ example, examples: several }) {
  return example ?? Object.values(several ?? {})[0]?.value;
}

// ---------------------------------------------------------------------------------------------------------------
// Operations.

/** What to type for a call, as a shell understands it; for a WebSocket, as a browser does. */
function command(path, method, operation, shared, withKey) {
  const url = location.origin + path.replace(/\{\w+\}/, shared.map(follow)[0]?.example);
  const key = withKey && operation.security.length > 0;
  if (operation.responses[101]) {
    const address = JSON.stringify(url.replace(/^http/, "ws") + (key ? "?api_key=KEY" : ""));
    const { first } = operation["x-messages"];
    return `const socket = new WebSocket(${address});\n` +
      (first ? `socket.onopen = () => socket.send(JSON.stringify(${spacedOut(first)}));\n` : "") +
      `socket.onmessage = (event) => console.log(JSON.parse(event.data));`;
  }
  // What goes on and on is to be seen as it comes.
  const forms = Object.keys(operation.responses[200]?.content ?? {});
  const flags = forms[0] === "text/event-stream" ? "-N " : method === "GET" ? "" : `-X ${method} `;
  const parts = [`curl ${flags}'${url}'`];
  if (key) parts.push(`-H "X-API-Key: $KEY"`);
  // Without a header the first of several forms comes: show how to ask for another.
  if (forms.length > 1) parts.push(`-H 'Accept: ${forms.at(-1).split(";")[0]}'`);
  const body = follow(operation.requestBody)?.content["application/json"];
  if (body) {
    const text = spacedOut(firstExample(body)).replaceAll("'", "'\\''");
    parts.push("-H 'Content-Type: application/json'", `-d '${text}'`);
  }
  return parts.join(" \\\n  ");
}

function operationOf(path, method, operation, shared) {
  const socket = Boolean(operation.responses[101]);
  const verb = socket ? "WS" : method;
  const role = operation.security[0]?.apiKey[0];
  const typed = block(command(path, method, operation, shared, false));
  commands.push((withKey) => { typed.firstChild.textContent = command(path, method, operation, shared, withKey); });
  const parameters = [...shared, ...(operation.parameters ?? [])].map(follow);
  const older = Object.keys(api.paths).filter((one) => one !== path && follow(api.paths[one]) === api.paths[path]);
  return el("details", { id: operation.operationId ?? slug(method + path), class: "operation" },
    el("summary", null,
      el("h3", null,
        el("span", { class: `verb ${verb.toLowerCase()}` }, verb), " ", el("code", null, broken(path)), " ",
        el("span", { class: "what" }, operation.summary)),
      role ? el("span", { class: "role" }, role) : null),
    el("div", { class: "inside" },
      markdown(operation.description),
      older.map((one) => el("p", null, "For older clients the same as ", el("code", null, one), ".")),
      el("h4", null, socket ? "In a browser" : "Command"),
      copyable(typed, socket ? "the lines" : "the command"),
      parameters.length ? [el("h4", null, "Parameters"),
        el("dl", null, parameters.map((one) => field(one.name, one.schema,
          `in ${one.in}${one.required ? ", required" : ""}`, one.description)))] : null,
      operation.requestBody ? bodyOf(follow(operation.requestBody)) : null,
      operation["x-messages"] ? messagesOf(operation["x-messages"]) : null,
      answersOf(operation.responses)));
}

/** A path that may be broken at its slashes, and nowhere else. */
const broken = (path) => path.split(/(?=\/)/).flatMap((part) => [el("wbr"), part]);

function bodyOf({ content, required }) {
  const body = content["application/json"];
  const [form, other] = body.schema.oneOf ?? [body.schema];
  return [el("h4", null, required ? "Body" : "Body, which may be left out"), fields(follow(form), true),
    other ? el("p", null, "Or the older form: a bare list of ids.") : null, examples(body)];
}

/** Answers of this call in full, and links to those that every call may give. */
function answersOf(responses) {
  const own = [], common = [];
  for (const [code, response] of Object.entries(responses)) {
    const name = response.$ref && last(response.$ref);
    if (name) common.push(el("li", null, el("a", { href: `#answer-${name}` }, code, " ", spaced(name))));
    else own.push(answer(code, response));
  }
  return [el("h4", null, "Answers"), own, el("p", { class: "title" }, "As for other calls"),
    el("ul", { class: "common" }, common)];
}

function answer(code, response) {
  const forms = Object.entries(response.content ?? {});
  const [[type, content] = []] = forms;
  const isJson = type === "application/json";
  const headers = Object.entries(response.headers ?? {});
  // One form is named beside the text, several are named one by one.
  const kind = (name, { schema }) => el("span", { class: "type" }, name === "application/json" || schema.$ref
    ? typeOf(schema) : null, name === "application/json" ? null : [schema.$ref ? ", " : null, name]);
  return el("div", { class: "answer" },
    el("p", null, code ? [el("strong", { class: `code c${code[0]}` }, code), " "] : null,
      inline(response.description), " ",
      forms.length === 1 && !(isJson && content.schema.type === "object") ? kind(type, content) : null),
    headers.length ? el("dl", { class: "headers" }, headers.map(([name, one]) => {
      const { schema: kind, description, example = description ? undefined : kind.const } = follow(one);
      return [el("dt", null, el("code", { class: "field" }, name)),
        el("dd", null, inline(description ?? ""), " ", example === undefined ? null : el("code", null, example))];
    })) : null,
    forms.length > 1 ? forms.map(([name, one]) => [el("p", { class: "title" }, kind(name, one)), examples(one)])
      : content ? examples(content) : null);
}

function messagesOf({ server, client }) {
  const part = (title, union) => {
    const { oneOf, anyOf = oneOf, description } = follow(union);
    const all = anyOf ?? [union];
    const named = ({ properties, required }) => Object.keys(properties).filter((name) => !("const" in properties[name]))
      .flatMap((name, i) => [i ? ", " : "", el("code", null, name), required.includes(name) ? "" : " (optional)"]);
    const rows = all.map((one) => {
      const { title: name, ...schema } = follow(one);
      // Fields that need words have them among the objects.
      const explained = Object.values(schema.properties).some((field) => field.description);
      // The word that stands in the message, where there is one.
      const word = Object.values(schema.properties).some((field) => "const" in field) ? el("code", null, name) : null;
      return [explained ? typeOf(one, word) : word, named(schema), anyOf ? inline(schema.description) : ""];
    });
    return [el("h4", null, title), el("p", null, inline(description)),
      table(["message", "fields", "when"], rows, title), el("p", { class: "title" }, "An example of each"),
      block(all.flatMap((one) => follow(one).examples.map((example) => pretty(example))).join("\n"))];
  };
  return [part("Messages of the server", server), part("Messages of the client", client)];
}

// ---------------------------------------------------------------------------------------------------------------
// The page.

function chapter(id, title, ...children) {
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), children);
}

function lay() {
  document.querySelector("#version").textContent = api.info.version;
  const [lead, ...rest] = markdown(api.info.description);
  lead.className = "lead";
  main.append(lead, ...rest);

  const box = el("input", { type: "checkbox", id: "keys" });
  box.addEventListener("change", () => commands.forEach((write) => write(box.checked)));
  const all = (open) => {
    const button = el("button", { type: "button" }, open ? "Open all" : "Close all");
    button.addEventListener("click", () => openAll(open));
    return button;
  };
  main.append(el("div", { class: "tools" }, all(true), all(false),
    el("label", { for: "keys" }, box, " Show commands with a key")));

  for (const tag of api.tags) {
    const paths = Object.entries(api.paths).filter(([, item]) => !item.$ref);
    const operations = paths.flatMap(([path, { parameters = [], ...methods }]) =>
      Object.entries(methods).filter(([, one]) => one.tags.includes(tag.name))
        .map(([method, one]) => operationOf(path, method.toUpperCase(), one, parameters)));
    main.append(chapter(slug(tag.name), tag.name, markdown(tag.description), operations));
  }

  const shared = (id, title, ...children) => el("section", { id, class: "shared" }, el("h3", null, title), children);
  const responses = Object.entries(api.components.responses);
  main.append(chapter("answers", "Answers of many calls", responses.map(([name, one]) =>
    shared(`answer-${name}`, `${one["x-status"]} ${spaced(name)}`, answer(null, one)))));

  const objects = chapter("objects", "Objects");
  // A set may grow while it is walked: objects linked by objects come, too.
  for (const name of linked) {
    const schema = follow({ $ref: `#/components/schemas/${name}` });
    const plain = schema.properties ? fields(schema) : el("p", { class: "type" }, typeOf(schema), boundsOf(schema));
    objects.append(shared(`object-${name}`, spaced(name), markdown(schema.description), plain,
      schema.examples ? block(pretty(schema.examples[0])) : null));
  }
  main.append(objects);
}

function list() {
  const items = [];
  const link = (id, ...children) => el("a", { href: `#${id}` }, children);
  for (const heading of main.querySelectorAll("h2, .operation")) {
    if (heading.matches("h2")) {
      const isPart = heading.parentElement.matches("section");
      items.push(el("li", { class: isPart ? "part" : "page" }, link(heading.id, heading.textContent)));
    } else {
      const verb = heading.querySelector(".verb").cloneNode(true);
      const what = heading.querySelector(".what").textContent;
      items.push(el("li", { class: "call" }, link(heading.id, verb, " ", what)));
    }
  }
  contents.append(el("ul", null, items));
  // Beside the text there is room for it; above the text it would push everything down.
  const wide = matchMedia("(min-width: 60rem)");
  const adapt = () => { contents.open = wide.matches; };
  wide.addEventListener("change", adapt);
  adapt();
  contents.addEventListener("click", (event) => { if (event.target.closest("a")) adapt(); });
}

function openAll(open) {
  for (const one of main.querySelectorAll("details")) one.open = open;
}

/** A link to an operation opens it. */
function arrive() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) target.open = true;
  target?.scrollIntoView();
}

try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  api = await response.json();
  lay();
  list();
  arrive();
  addEventListener("hashchange", arrive);
  // Paper cannot be clicked.
  addEventListener("beforeprint", () => openAll(true));
} catch (error) {
  main.append(el("p", { class: "notice", role: "alert" },
    `The description could not be loaded: ${error.message}. Reload the page, or read /openapi.json.`));
}
