// Renders /openapi.json: operations by tag, with parameters, bodies and answers.
"use strict";

const methods = ["get", "post", "put", "patch", "delete"];

function element(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

function resolve(doc, schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.replace("#/", "").split("/").reduce((at, key) => at[key], doc);
}

function typeOf(doc, schema) {
  const s = resolve(doc, schema);
  const name = schema && schema.$ref ? schema.$ref.split("/").pop() : "";
  const types = Array.isArray(s.type) ? s.type.filter((t) => t !== "null").join(" or ") : s.type || "any";
  if (types === "array") return "list of " + typeOf(doc, s.items);
  if (s.enum) return s.enum.join(" | ");
  return name || (s.format ? types + " (" + s.format + ")" : types);
}

// schemaTree shows the fields of a schema; seen stops at a type within itself.
function schemaTree(doc, schema, seen) {
  let s = resolve(doc, schema);
  while (s.items) { schema = s.items; s = resolve(doc, schema); }
  if (schema && schema.$ref) {
    if (seen.includes(schema.$ref)) return null;
    seen = [...seen, schema.$ref];
  }
  if (!s.properties) return null;
  const list = element("ul", "schema");
  for (const [name, field] of Object.entries(s.properties)) {
    const own = resolve(doc, field);
    const required = (s.required || []).includes(name) ? " *" : "";
    list.append(element("li", "", element("code", "", name + required), " ",
      element("span", "type", typeOf(doc, field)), " ", field.description || own.description || "",
      schemaTree(doc, field, seen)));
  }
  return list;
}

function parameters(doc, operation) {
  if (!operation.parameters || operation.parameters.length === 0) return null;
  const table = element("table", "");
  for (const p of operation.parameters) {
    table.append(element("tr", "", element("td", "", element("code", "", p.name + (p.required ? " *" : ""))),
      element("td", "", p.in), element("td", "type", typeOf(doc, p.schema)), element("td", "", p.description || "")));
  }
  return element("section", "", element("h4", "", "Parameters"), table);
}

function content(doc, title, body) {
  if (!body || !body.content) return null;
  const section = element("section", "", element("h4", "", title));
  for (const [type, media] of Object.entries(body.content)) {
    section.append(element("p", "", element("code", "", type), " ", element("span", "type", typeOf(doc, media.schema))));
    const tree = schemaTree(doc, media.schema, []);
    if (tree) section.append(tree);
  }
  return section;
}

function answers(doc, operation) {
  const section = element("section", "", element("h4", "", "Answers"));
  const refusals = [];
  for (const [status, answer] of Object.entries(operation.responses || {})) {
    if (!/^2/.test(status)) { refusals.push(status + " " + (answer.description || "")); continue; }
    section.append(element("p", "", element("strong", "", status), " ", answer.description || ""));
    const body = content(doc, "", answer);
    if (body) { body.firstChild.remove(); section.append(body); }
  }
  if (refusals.length > 0) section.append(element("p", "", "Refusals (application/problem+json): " + refusals.join(", ")));
  return section;
}

function show(doc) {
  document.getElementById("info").textContent = doc.info.description + " Version " + doc.info.version + ".";
  const byTag = new Map();
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const method of methods) {
      const operation = item[method];
      if (!operation) continue;
      const details = element("details", "operation",
        element("summary", "", element("span", "method", method.toUpperCase()), element("span", "path", path),
          element("span", "summary", operation.summary || "")),
        element("div", "", element("p", "", operation.description || ""), parameters(doc, operation),
          content(doc, "Body", operation.requestBody), answers(doc, operation)));
      details.id = operation.operationId;
      details.dataset.text = [method, path, operation.summary, operation.operationId].join(" ").toLowerCase();
      const tag = (operation.tags || ["other"])[0];
      if (!byTag.has(tag)) byTag.set(tag, element("section", "", element("h2", "", tag)));
      byTag.get(tag).append(details);
    }
  }
  const main = document.getElementById("operations");
  main.replaceChildren(...byTag.values());
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const details of main.querySelectorAll("details.operation")) {
      details.hidden = !details.dataset.text.includes(wanted);
    }
  });
}

fetch("/openapi.json").then((r) => r.json()).then(show).catch((err) => {
  document.getElementById("operations").textContent = "The description cannot be read: " + err;
});
