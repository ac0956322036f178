// Lists principals with a client that a generator made of the document. What the compiler must refuse stands here too.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

const [, , baseUrl = "", bearer = ""] = process.argv;
const client = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${bearer}` } });

const { data, error } = await client.GET("/api/sys/principals", { params: { query: { limit: 10 } } });
if (error !== undefined) throw new Error(`${error.error}: ${error.reason ?? ""}`);
const rows: components["schemas"]["identity.principals.row"][] = data.principals;
for (const { principal, groups } of rows) console.log(`${principal} ${groups.join(",")}`);

const made = await client.POST("/api/sys/groups", { body: { name: "ops", capabilities: ["capsule:list"] } });
console.log(made.data?.name, made.response.status);
const gone = await client.DELETE("/api/sys/groups/{name}", { params: { path: { name: "ops" } } });
console.log(gone.response.status);

const tile = await client.GET("/api/sys/audit/tile/{path}", {
    params: { path: { path: "entries/x999/999" } },
    parseAs: "arrayBuffer",
});
console.log(tile.response.status, tile.error?.error);

const nobody = await client.GET("/api/sys/principals/{principal}", { params: { path: { principal: "nobody" } } });
console.log(nobody.response.status, nobody.error?.error);

// Somebody new: an invite, a key of their own, a login by it, and the next bearer.
const pair = (await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"])) as CryptoKeyPair;
const hex = (bytes: ArrayBuffer) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");
const public_key = hex(await crypto.subtle.exportKey("raw", pair.publicKey));
const issued = await client.POST("/api/sys/invites", { body: { max_uses: 2 } });
const token = issued.data!.invite.token;
const redeemed = await client.POST("/api/auth/redeem", { body: { token, public_key, display_name: "bo" } });
const principal = redeemed.data!.principal;
const asked = await client.POST("/api/auth/challenge", { body: { principal } });
const challenge = asked.data!.challenge;
const signature = hex(await crypto.subtle.sign("Ed25519", pair.privateKey, new TextEncoder().encode(challenge)));
const begun = await client.POST("/api/auth/login", { body: { principal, challenge, public_key, signature } });
const theirs = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${begun.data!.session_token}` } });
const refreshed = await theirs.POST("/api/auth/refresh");
const me = await theirs.GET("/api/auth/me");
console.log(principal, refreshed.data?.principal, me.data?.principal);
const again = await client.POST("/api/auth/redeem", { body: { token, public_key } });
console.log(again.response.status, again.error?.error);

export async function refusedByTheCompiler() {
    // @ts-expect-error no such path
    await client.GET("/api/nothing");
    // @ts-expect-error no such parameter of the query
    await client.GET("/api/sys/principals", { params: { query: { colour: "red" } } });
    // @ts-expect-error `max_uses` is missing
    await client.POST("/api/sys/invites", { body: { group: "agent" } });
    // @ts-expect-error a number
    await client.POST("/api/sys/invites", { body: { max_uses: "1" } });
    // @ts-expect-error one of four words
    await client.GET("/api/sys/logs", { params: { query: { level: "loud" } } });
}
