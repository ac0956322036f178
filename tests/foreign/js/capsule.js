// A handler in JavaScript: says hello, and announces it.
import { publish } from "astrid:bus/bus@0.1.0";

const refused = (code, reason) => {
  throw { code, reason };
};

export const handler = {
  handle(name, message) {
    if (name !== "hello") refused("not-found", "no such handler");
    const text = String.fromCharCode(...message.payload);
    const { name: who } = JSON.parse(text);
    if (typeof who !== "string" || who === "") refused("invalid", "name is missing");
    const answer = JSON.stringify({ text: `Hello, ${who}!`, principal: message.principal });
    const bytes = Uint8Array.from(answer, (c) => c.charCodeAt(0));
    publish("js.v1.said", bytes, undefined);
    return bytes;
  },
};
