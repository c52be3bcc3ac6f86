"use strict";

function made(name, text, ...children) {
  const element = document.createElement(name);
  element.textContent = text;
  element.append(...children);
  return element;
}

function typeOf(schema, all) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((form) => typeOf(form, all)).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "array") return `list of ${typeOf(schema.items, all)}`;
  return schema.format || schema.type || "any value";
}

function fields(schema, all) {
  const table = made("table", "");
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const row = table.insertRow();
    row.append(made("th", name), made("td", typeOf(field, all)), made("td", field.description || ""));
  }
  return table;
}

function operation(path, method, described, all) {
  const article = made("article", "", made("h2", `${method.toUpperCase()} ${path}`), made("p", described.summary || ""));
  if (described.description) article.append(made("p", described.description));
  const form = described.requestBody && described.requestBody.content["multipart/form-data"].schema;
  if (form) {
    const sent = Object.keys(form.properties).map((name) => `-F ${name}=@image.jpeg`).join(" ");
    article.append(made("h3", "Form"), fields(form, all), made("pre", `curl ${sent} ${location.origin}${path}`));
  }
  for (const [status, answer] of Object.entries(described.responses)) {
    const content = answer.content && answer.content["application/json"];
    if (content && (status === "200" || status === "503")) {
      article.append(made("h3", status === "200" ? "Answer" : "Error"), made("p", typeOf(content.schema, all)));
    }
  }
  return article;
}

function show(description) {
  const all = description.components.schemas;
  document.getElementById("about").textContent = description.info.description;
  const place = document.getElementById("operations");
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, described] of Object.entries(methods)) place.append(operation(path, method, described, all));
  }
  place.append(made("h2", "Forms of the answers"));
  for (const [name, schema] of Object.entries(all)) {
    if (!schema.properties || name.includes("Validation")) continue;
    place.append(made("article", "", made("h3", name), made("p", schema.description || ""), fields(schema, all)));
  }
}

fetch("/openapi.json").then((response) => response.json()).then(show, () => {
  document.getElementById("problems").textContent = "The retinaflow server does not answer. Is it still running?";
});
