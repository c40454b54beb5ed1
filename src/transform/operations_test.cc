// What a request asks for is said whole or not at all.

#include "transform/operations.h"

#include <gmock/gmock.h>

#include "transform/graphql.h"

namespace postern::transform {
namespace {

constexpr const char* unclear = "(unclear)";

std::string said(const std::optional<std::vector<Operation>>& operations) {
  if (!operations) return unclear;
  std::string out;
  for (const Operation& operation : *operations) {
    if (!out.empty()) out += ", ";
    out += operation.text();
  }
  return out;
}

std::string posted(std::string_view body, std::string_view type = "application/json",
                   std::string_view query = {}) {
  return said(read_operations({.method = "POST", .query = query, .content_type = type, .body = body}));
}

std::string fetched(std::string_view query, std::string_view method = "GET") {
  return said(read_operations({.method = method, .query = query, .content_type = {}, .body = {}}));
}

/// Of the document of a GraphQL request.
std::string asked(std::string_view document) { return posted(document, "application/graphql"); }

std::string nested(std::string_view open, std::string_view close, std::size_t depth) {
  std::string out;
  for (std::size_t i = 0; i < depth; ++i) out += open;
  for (std::size_t i = 0; i < depth; ++i) out += close;
  return out;
}

struct Case {
  std::string_view text;
  std::string_view expected;
};

TEST(GraphQl, RootFieldsAreNamed) {
  const Case cases[] = {
      {"{viewer}", "query viewer"},
      {"{ viewer { login } repository(owner: \"a\", name: \"b\") { id } }", "query viewer, query repository"},
      {"query { viewer }", "query viewer"},
      {"query Name { viewer }", "query viewer"},
      {"query Name($a: Int = 3, $b: [String!]! = [\"x\"] @d(x: {y: 1})) @live(if: $a) { viewer }",
       "query viewer"},
      {"mutation M($input: CreateIssueInput!) { createIssue(input: $input) { issue { id } } }",
       "mutation createIssue"},
      {"subscription { onIssue }", "subscription onIssue"},
      {"mutation{a(x:1)b(x:-2.5e+10)c(x:0){y}}", "mutation a, mutation b, mutation c"},
      {"{query mutation subscription fragment on}",
       "query query, query mutation, query subscription, query fragment, query on"},
      {"query query { true null }", "query true, query null"},
      {",,{,a,,b,},,", "query a, query b"},
      {"\xef\xbb\xbf{a}", "query a"},
      {"# comment }{ \n{a # \xc3\xa9 {\r\n b}", "query a, query b"},
      {"{a}#", "query a"},
      {R"({a(x: "} evil {", y: """} evil { 
 """, z: "\"} evil {\\" ) b})",
       "query a, query b"},
      {R"({a(x: "\u007d\n\t\/") b(x:"")})", "query a, query b"},
      {R"({a(x: """""") b(x: [$v, ENUM, {k: [{}]}, true])})", "query a, query b"},
      {"{__schema{types{name}} __type(name:\"X\"){name}}", "query __schema, query __type"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(asked(text), expected) << text;
}

TEST(GraphQl, AnAliasHidesNothing) {
  EXPECT_EQ(asked("mutation { addComment: deleteRepository(id: 1) { ok } }"), "mutation deleteRepository");
  EXPECT_EQ(asked("{viewer:#x\n,secrets}"), "query secrets");
  EXPECT_EQ(asked("{a:b:c}"), unclear);
  EXPECT_EQ(asked("{a:}"), unclear);
}

TEST(GraphQl, ADirectiveLeavesNothingOut) {
  EXPECT_EQ(asked("query($no: Boolean!) { a @skip(if: $no) b @include(if: false) @x ...@skip(if:true){c} }"),
            "query a, query b, query c");
}

TEST(GraphQl, AllOperationsOfADocumentCount) {
  EXPECT_EQ(asked("query A {a} mutation B {b} {c}"), "query a, mutation b, query c");
  EXPECT_EQ(posted(R"({"query":"query A {a} mutation B {b}","operationName":"A"})"), "query a, mutation b");
}

TEST(GraphQl, FragmentsAreOpened) {
  const Case cases[] = {
      {"query { ...F } fragment F on Query { a ...G } fragment G on Query { b }", "query a, query b"},
      {"fragment F on Mutation @d { deleteAll } mutation { ok ...F }", "mutation ok, mutation deleteAll"},
      {"{ ... on Query { a ... { b ... @include(if: true) { c } } } }", "query a, query b, query c"},
      {"{ ...F @skip(if: true) } fragment F on Query { a }", "query a"},
      {"{ ...F ...F } fragment F on Query { a }", "query a"},
      {"query { a ...F } fragment F on Query { b ...F }", "query a, query b"},
      {"query { a ...F } fragment F on Query { ...G } fragment G on Query { ...F c }", "query a, query c"},
      {"query { ...F } mutation { ...F } fragment F on X { a }", "query a, mutation a"},
      {"{ a { ...Unknown ... on X { y } } }", "query a"},
      {"{a} fragment Unused on X { ...Unknown }", "query a"},
      {"{ ...Unknown }", unclear},
      {"{ a ...F } fragment F on X { ...Unknown }", unclear},
      {"{ ...F } fragment F on X { ...F }", unclear},
      {"{ ...F } fragment F on X { a } fragment F on X { b }", unclear},
      {"{ ...F } fragment on on X { a }", unclear},
      {"{ ...on } fragment F on X { a }", unclear},
      {"{ ...F } fragment F { a }", unclear},
      {"{ ...F } fragment F($x: Int) on X { a }", unclear},
      {"{ ...F(x: 1) } fragment F on X { a }", unclear},
      {"fragment F on X { a }", unclear},
      {"{ .. on X { a } }", unclear},
      {"{ ....F }  fragment F on X { a }", unclear},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(asked(text), expected) << text;
}

TEST(GraphQl, TypenameCountsAlone) {
  EXPECT_EQ(asked("{__typename}"), "query __typename");
  EXPECT_EQ(asked("{__typename x:__typename a}"), "query a");
  EXPECT_EQ(asked("{...F} fragment F on Q {__typename}"), "query __typename");
  EXPECT_EQ(asked("{a} mutation {__typename}"), "query a, mutation __typename");
}

TEST(GraphQl, WhatIsNotUnderstoodIsUnclear) {
  for (const char* text : {"",
                           " ",
                           "#",
                           "viewer",
                           "{",
                           "}",
                           "{}",
                           "{a",
                           "{a}}",
                           "{a{}",
                           "{a(}",
                           "{a)}",
                           "{a(x:[)]}",
                           "{a{(}})",
                           "query",
                           "query Name",
                           "query(",
                           "query($a: Int {a}",
                           "mutations {a}",
                           "QUERY {a}",
                           "{a} b",
                           "{a} type",
                           "type Query { a: Int }",
                           "schema { query: Q }",
                           "extend type Q { a: Int }",
                           "{a} type Q { a: Int }",
                           "\"description\" query {a}",
                           "\"\"\"d\"\"\" {a}",
                           "{\"a\"}",
                           "{1}",
                           "{a!}",
                           "{a?}",
                           "{a b:}",
                           "{$a}",
                           "{a(x:01)}",
                           "{a(x:1.)}",
                           "{a(x:.5)}",
                           "{a(x:1e)}",
                           "{a(x:1x)}",
                           "{a(x:0xF)}",
                           "{a(x:1.2.3)}",
                           "{a(x:-)}",
                           "{a(x:+1)}",
                           "{a(x:\"\\x\")}",
                           "{a(x:\"\\u12g4\")}",
                           "{a(x:\"\\u{1F600}\")}",
                           "{a(x:\"\n\")}",
                           "{a(x:\"",
                           "{a(x:\"\\",
                           "{a(x:\"\"\"",
                           "{a(x:'b')}",
                           "{a & b}",
                           "{a | b}",
                           "{a;b}",
                           "{a\\u007db}",
                           "{\xc3\xa9}",
                           "{a\xe2\x80\xa8}",
                           "{a\x0b}",
                           "{a\x7f}",
                           "{a(x:\"\xff\")}",
                           "#\xff\n{a}",
                           "{@d a}",
                           "{a @}",
                           "query @ {a}",
                           "query A B {a}",
                           "query A @d B {a}",
                           "{a ... }",
                           "{a ...@d}"})
    EXPECT_EQ(asked(text), unclear) << text;
  EXPECT_EQ(asked(std::string_view("{a}\0{b}", 7)), unclear);
  EXPECT_EQ(asked(std::string_view("#\0\n{b}", 6)), unclear);
}

TEST(GraphQl, WhereLexersDifferNothingIsSaid) {
  // Not all end a comment at a lone CR, at LINE SEPARATOR or NEL.
  EXPECT_EQ(asked("{a # \r evil \n}"), unclear);
  EXPECT_EQ(asked("{a # \xe2\x80\xa8 evil \n}"), unclear);
  EXPECT_EQ(asked("{a # \xe2\x80\xa9 evil \n}"), unclear);
  EXPECT_EQ(asked("{a # \xc2\x85 evil \n}"), unclear);
  EXPECT_EQ(asked("{a # \x0b evil \n}"), unclear);
  // Before 2018 `"""` was an empty string and the beginning of another.
  EXPECT_EQ(asked(R"({a(x:["""b" ]) evil #"""])})"), unclear);
  EXPECT_EQ(asked(R"({a(x:[""" \""" ]) evil(x: [""" """])})"), unclear);
  EXPECT_EQ(asked(R"({a(x:""" "" """)})"), unclear);
  EXPECT_EQ(asked(R"({a(x:"""b"""")})"), unclear);
  EXPECT_EQ(asked(R"({a(x:"""\u0022""")})"), unclear);
  // Some take every byte order mark away first: "mutation".
  EXPECT_EQ(asked("mut\xef\xbb\xbf"
                  "ation {a}"),
            unclear);
  EXPECT_EQ(asked("{a \xef\xbb\xbf b}"), unclear);
}

TEST(GraphQl, HasLimits) {
  EXPECT_EQ(asked("{a" + nested("{a", "}", 64) + "}"), "query a");
  EXPECT_EQ(asked("{a" + nested("{a", "}", 65) + "}"), unclear);
  EXPECT_EQ(asked("{a(x:" + nested("[", "]", 63) + ")}"), "query a");
  EXPECT_EQ(asked("{a(x:" + nested("[", "]", 64) + ")}"), unclear);
  EXPECT_EQ(asked("{a(x:" + nested("[", "]", 400'000) + ")}"), unclear);
  EXPECT_EQ(asked("{a " + nested("...{a ", "}", 63) + "}").size(), 64 * 9 - 2);
  EXPECT_EQ(asked("{a " + nested("...{a ", "}", 64) + "}"), unclear);
  EXPECT_EQ(asked("{a " + nested("...{a ", "}", 100'000) + "}"), unclear);
  EXPECT_EQ(asked("{" + std::string(256, 'a') + "}"), "query " + std::string(256, 'a'));
  EXPECT_EQ(asked("{" + std::string(257, 'a') + "}"), unclear);
  const std::string thousand = nested("a ", "", 1'000);
  EXPECT_NE(asked("{" + thousand + "}"), unclear);
  EXPECT_EQ(asked("{" + thousand + "a}"), unclear);
  EXPECT_NE(asked(nested("{a}", "", 1'000)), unclear);
  EXPECT_EQ(asked(nested("{a}", "", 1'001)), unclear);
}

TEST(GraphQl, FragmentsThatLeadToFragmentsCostLittle) {
  std::string chain = "{...F0}";
  for (int i = 0; i < 999; ++i)
    chain += "fragment F" + std::to_string(i) + " on X {...F" + std::to_string(i + 1) + "}";
  EXPECT_EQ(asked(chain + "fragment F999 on X {a}"), "query a");
  EXPECT_EQ(asked(chain + "fragment F999 on X {a} fragment G on X {b}"), unclear);
  // Every operation looks into many.
  const std::string wide = "fragment F on X {a " + nested("...F ", "", 50'000) + "}";
  EXPECT_EQ(asked("{...F}" + wide), "query a");
  EXPECT_EQ(asked(nested("{...F}", "", 999) + wide), unclear);
}

TEST(GraphQl, ComesInJson) {
  const Case cases[] = {
      {R"({"query":"{viewer}"})", "query viewer"},
      {R"( {"query":"{viewer}","operationName":null,"variables":{"query":1,"a":{"a":1}},"extensions":{}} )",
       "query viewer"},
      {R"({"query":"{a}","extensions":null,"variables":null})", "query a"},
      {R"({"query":"{a}","extensions":{"clientLibrary":{"name":"apollo","name":1}}})", "query a"},
      {R"({"query":"mutation {\n  a\u0028x: 1)\n}"})", "mutation a"},
      {R"([{"query":"{a}"},{"query":"mutation {b}"}])", "query a, mutation b"},
      {R"({"query":"cats and dogs"})", unclear},
      {R"({"query":""})", unclear},
      {R"({"query":null})", unclear},
      {R"({"query":["{a}"]})", unclear},
      {R"({"query":{"query":"{a}"}})", unclear},
      {R"({"variables":{"query":"{a}"}})", unclear},
      {R"({"query":"{a}","query":"{b}"})", unclear},
      {R"({"query":"{a}","qu\u0065ry":"{b}"})", unclear},
      {R"({"query":"{a}","Query":"{b}"})", unclear},
      {R"({"QUERY":"{b}"})", unclear},
      {R"({"query":"{a}","query ":"{b}"})", unclear},
      {R"({"query":"{a}","query\u0000":"{b}"})", unclear},
      {R"({"query":"{a}","variables":{},"variables":{}})", unclear},
      {R"({"query":"{a}","mutation":"{b}"})", unclear},
      {R"({"query":"{a}","jsonrpc":"2.0","method":"x"})", unclear},
      {R"([{"query":"{a}"},{"jsonrpc":"2.0","method":"x"}])", unclear},
      {R"([{"query":"{a}"},{}])", unclear},
      {R"([{"query":"{a}"},[{"query":"{b}"}]])", unclear},
      {R"([[{"query":"{b}"}]])", unclear},
      {R"([{"query":"{a}"},null])", unclear},
      {"[]", unclear},
      {"{}", unclear},
      {"null", unclear},
      {"\"{a}\"", unclear},
      {"1", unclear},
      {"", unclear},
      {" ", unclear},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(posted(text), expected) << text;
}

TEST(GraphQl, StoredQueriesAreUnclear) {
  for (const char* member :
       {R"("id":"1")", R"("documentId":"1")", R"("doc_id":"1")", R"("docId":"1")", R"("queryId":"1")",
        R"("id":null)", R"("hash":"1")", R"("extensions":{"persistedQuery":{"version":1,"sha256Hash":"0a"}})",
        R"("extensions":{"PersistedQuery":{}})", R"("extensions":{"persisted_query":{}})",
        R"("extensions":{"per\u017fistedQuery":{}})", R"("extensions":{"a":1,"a":2})", R"("extensions":[])",
        R"("extensions":"{}")", R"("Extensions":{"persistedQuery":{}})"}) {
    EXPECT_EQ(posted("{" + std::string(member) + "}"), unclear) << member;
    EXPECT_EQ(posted(R"({"query":"{a}",)" + std::string(member) + "}"), unclear) << member;
  }
  EXPECT_EQ(fetched("query={a}&id=1"), unclear);
  EXPECT_EQ(fetched("query={a}&documentId=1"), unclear);
  EXPECT_EQ(fetched("query={a}&extensions=%7B%22persistedQuery%22%3A%7B%7D%7D"), unclear);
}

TEST(GraphQl, ComesInTheUrl) {
  const Case cases[] = {
      {"query={viewer}", "query viewer"},
      {"query=%7Bviewer%20%7b+login%7D+%7D&x=1&&", "query viewer"},
      {"a=b&qu%65ry=mutation%7Bb%7D&operationName=x&variables={}", "mutation b"},
      {"query={a}&query={b}", unclear},
      {"query={a}&quer%79={b}", unclear},
      {"query={a}&Query={b}", unclear},
      {"query={a}&query[]={b}", unclear},
      {"query={a}&+query={b}", unclear},
      {"query={a}&.query={b}", unclear},
      {"query={a}&que%00ry={b}", unclear},
      {"query={a};query={b}", unclear},
      {"x=1;query={b}&query={a}", unclear},
      {"query={a}&operationName=a&operationName=b", unclear},
      {"query={a}&variables={}&variables={}", unclear},
      {"query={a}&method=eth_call", unclear},
      {"query={a}&jsonrpc=2.0", unclear},
      {"query[]={a}", unclear},
      {"Query={a}", unclear},
      {"query={a}%", unclear},
      {"query={a}%4", unclear},
      {"query={a}%zz", unclear},
      {"query={a%00}", unclear},
      {"query={a(x:%22%ff%22)}", unclear},
      {"query={a%u007d}", unclear},
      {"query=", unclear},
      {"query", unclear},
      {"x={a}", unclear},
      {"", unclear},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(fetched(text), expected) << text;
  EXPECT_EQ(fetched("query={a}", "HEAD"), "query a");
  EXPECT_EQ(fetched("query={a}", "POST"), "query a");
  for (const char* method : {"DELETE", "PUT", "OPTIONS", "get"})
    EXPECT_EQ(fetched("query={a}", method), unclear) << method;
}

TEST(Operations, UrlAndBodyAreNotBothHeard) {
  constexpr std::string_view body = R"({"query":"{a}"})";
  EXPECT_EQ(posted(body, "application/json", "api-version=2&trace=on"), "query a");
  for (const char* query :
       {"query=mutation{b}", "query=", "QUERY=x", "operationName=B", "variables={}", "extensions={}", "id=1",
        "x=1;query={b}", "%71uery={b}", "query%5B%5D={b}", "_method=DELETE", "x=%"})
    EXPECT_EQ(posted(body, "application/json", query), unclear) << query;
  EXPECT_EQ(posted("{a}", "application/graphql", "query={b}"), unclear);
  for (const char* method : {"GET", "HEAD", "PUT", "PATCH", "DELETE", "post"})
    EXPECT_EQ(said(read_operations(
                  {.method = method, .query = {}, .content_type = "application/json", .body = body})),
              unclear)
        << method;
}

TEST(Operations, TheContentTypeSaysHowABodyIsRead) {
  constexpr std::string_view body = R"({"query":"{a}"})";
  for (const char* type : {"application/json", "Application/JSON", "application/json; charset=utf-8",
                           "application/json;charset=UTF-8", "application/json ; charset=\"utf-8\"",
                           "text/json", "application/graphql-response+json", "application/vnd.api+json"})
    EXPECT_EQ(posted(body, type), "query a") << type;
  for (const char* type :
       {"", " ", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/json, text/plain", "application/json; charset=utf-7", "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=utf-7", "application/json; charset*=utf-7",
        "application/json; a=application/x-www-form-urlencoded", "application/x-www-form-urlencoded+json",
        "application/+json,x", "json", "application/json5", "application/jsonp", "application/graphql",
        "application/a b+json"})
    EXPECT_EQ(posted(body, type), unclear) << type;
  EXPECT_EQ(posted("{a}", "application/graphql; charset=utf-8"), "query a");
  EXPECT_EQ(posted("{a}", "application/graphql; charset=utf-7"), unclear);
  EXPECT_EQ(posted("{a}"), unclear);
}

TEST(Operations, OnlyStrictJsonIsRead) {
  for (const char* body : {"{\"query\":\"{a}\"}{}",
                           "{\"query\":\"{a}\"} x",
                           "{\"query\":\"{a}\",}",
                           "/**/{\"query\":\"{a}\"}",
                           "{\"query\":\"{a}\"}//",
                           "{'query':'{a}'}",
                           "{query:\"{a}\"}",
                           "{\"query\":\"{a}\",\"variables\":NaN}",
                           "{\"query\":\"{a}\",\"variables\":01}",
                           "{\"query\":\"{a}\",\"variables\":1e999}",
                           "{\"query\":\"{a\n}\"}",
                           "{\"query\":\"{a}\\x\"}",
                           "\xef\xbb\xbf{\"query\":\"{a}\"}",
                           "{\"query\":\"{a(x:\\\"\xff\\\")}\"}",
                           "{\"query\":\"{a}\",\"variables\":\"\xc0\x80\"}",
                           "{\"query\":\"{a}\",\"variables\":\"\xed\xa0\x80\"}",
                           "{\"query\":\"{a}\",\"variables\":\"\\ud800\"}",
                           "\xff\xfe{",
                           "\x1e{\"query\":\"{a}\"}",
                           "{\"query\":\"{a}\"",
                           "[{\"query\":\"{a}\"}",
                           "{\"query\":\"{a}\"}\n{\"query\":\"{b}\"}"})
    EXPECT_EQ(posted(body), unclear) << body;
  EXPECT_EQ(posted(std::string_view("{\"query\":\"{a}\"}\0{}", 18)), unclear);
  EXPECT_EQ(posted(std::string_view("{\0\"\0q\0\"\0", 8)), unclear);
  EXPECT_EQ(posted(R"({"query":"{a}","variables":)" + nested("[", "]", 63) + "}"), "query a");
  EXPECT_EQ(posted(R"({"query":"{a}","variables":)" + nested("[", "]", 64) + "}"), unclear);
  EXPECT_EQ(posted(R"({"query":"{a}","variables":)" + nested("{\"a\":", "1}", 64) + "}"), unclear);
  EXPECT_EQ(posted(nested("[", "]", 500'000)), unclear);
}

TEST(JsonRpc, MethodsAreNamed) {
  const Case cases[] = {
      {R"({"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"to":"0x"},"latest"]})", "eth_call"},
      {R"({"jsonrpc":"2.0","method":"notifications/initialized"})", "notifications/initialized"},
      {R"({"method":"sum","params":{"é":1,"Name":2,"name":3},"id":null,"jsonrpc":"2.0"})", "sum"},
      {R"([{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","id":2}])", "a, b"},
      {R"({"jsonrpc":"2.0"})", unclear},
      {R"({"method":"a"})", unclear},
      {R"({"jsonrpc":2.0,"method":"a"})", unclear},
      {R"({"jsonrpc":"2.0","method":null})", unclear},
      {R"({"jsonrpc":"2.0","method":["a"]})", unclear},
      {R"({"jsonrpc":"2.0","method":""})", unclear},
      {R"({"jsonrpc":"2.0","method":"a b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a\n"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a\u0000b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","method":"b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","m\u0065thod":"b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","Method":"b"})", unclear},
      {R"({"jsonrpc":"2.0","Method":"b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","METHOD":"b"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","_method":"b"})", unclear},
      {R"({"jsonrpc":"2.0","JSONRPC":"2.0","method":"a"})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","params":1,"params":2})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","param\u017f":{}})", unclear},
      {R"({"jsonrpc":"2.0","method":"a","params":{"x":1,"x":2}})", unclear},
      {R"([{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","Method":"b","method":"a"}])", unclear},
      {R"([{"jsonrpc":"2.0","method":"a"},{"method":"b"}])", unclear},
      {R"([{"jsonrpc":"2.0","method":"a"},1])", unclear},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(posted(text), expected) << text;
}

TEST(JsonRpc, AnAnswerIsAnOperationOfItsOwn) {
  EXPECT_EQ(posted(R"({"jsonrpc":"2.0","id":1,"result":{"role":"user"}})"), "response");
  EXPECT_EQ(posted(R"({"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}})"), "response");
  EXPECT_EQ(posted(R"([{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","method":"a"}])"), "response, a");
  EXPECT_EQ(posted(R"({"jsonrpc":"2.0","id":1,"result":1,"method":"a"})"), unclear);
  EXPECT_EQ(posted(R"({"jsonrpc":"2.0","id":1,"method":"response"})"), unclear);
}

TEST(JsonRpc, WhatAnMcpServerIsToDoIsNamed) {
  const Case cases[] = {
      {R"({"method":"tools/call","params":{"name":"search_issues","arguments":{"name":"x"}}})",
       "tools/call search_issues"},
      {R"({"method":"tools/call","params":{"arguments":{"uri":1,"name":"x"},"name":"search"}})",
       "tools/call search"},
      {R"({"method":"tools/call","params":{"arguments":[{"name":"x"}],"_meta":{},"name":"search"}})",
       "tools/call search"},
      {R"({"params":{"name":"search"},"method":"tools/call"})", "tools/call search"},
      {R"({"method":"prompts/get","params":{"name":"review code"}})", "prompts/get review code"},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/a%20b..txt"}})",
       "resources/read file:///srv/a%20b..txt"},
      {R"({"method":"resources/subscribe","params":{"uri":"repo://x"}})", "resources/subscribe repo://x"},
      {R"({"method":"resources/unsubscribe","params":{"uri":"repo://x"}})", "resources/unsubscribe repo://x"},
      {R"({"method":"tools/list","params":{"cursor":"x"}})", "tools/list"},
      {R"({"method":"tools/call"})", unclear},
      {R"({"method":"tools/call","params":null})", unclear},
      {R"({"method":"tools/call","params":{}})", unclear},
      {R"({"method":"tools/call","params":["search"]})", unclear},
      {R"({"method":"tools/call","params":[{"name":"search"}]})", unclear},
      {R"({"method":"tools/call","params":{"name":1}})", unclear},
      {R"({"method":"tools/call","params":{"name":""}})", unclear},
      {R"({"method":"tools/call","params":{"name":{"name":"a"}}})", unclear},
      {R"({"method":"tools/call","params":{"name":"a","name":"b"}})", unclear},
      {R"({"method":"tools/call","params":{"name":"a","nam\u0065":"b"}})", unclear},
      {R"({"method":"tools/call","params":{"name":"a","Name":"b"}})", unclear},
      {R"({"method":"tools/call","params":{"name":"a","name\u0000":"b"}})", unclear},
      {R"({"method":"tools/call","params":{"name":"a\n"}})", unclear},
      {R"({"method":"tools/call","Params":{"name":"b"},"params":{"name":"a"}})", unclear},
      {R"({"method":"tools/call","arguments":{"name":"b"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/../etc/passwd"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/%2e%2E/etc"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/..%2fetc"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/..\\etc"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/%252e%252e/etc"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/..;x/etc"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/.."}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/./x"}})", unclear},
      {R"({"method":"resources/read","params":{"uri":"file:///srv/%"}})", unclear},
  };
  for (const auto& [text, expected] : cases) {
    const std::string body = R"({"jsonrpc":"2.0",)" + std::string(text.substr(1));
    EXPECT_EQ(posted(body), expected) << body;
    EXPECT_EQ(posted("[" + body + "]"), expected) << "alone in a batch: " << body;
  }
}

TEST(Operations, HaveLimits) {
  const auto batch = [](std::size_t count) {
    std::string out = "[";
    for (std::size_t i = 0; i < count; ++i)
      out += (i ? "," : "") + std::string(R"({"jsonrpc":"","method":"a"})");
    return out + "]";
  };
  EXPECT_NE(posted(batch(1'000)), unclear);
  EXPECT_EQ(posted(batch(1'001)), unclear);
  const auto members = [](std::size_t count) {
    std::string out = R"({"jsonrpc":"","method":"a","params":{)";
    for (std::size_t i = 0; i < count; ++i) out += (i ? ",\"" : "\"") + std::to_string(i) + "\":0";
    return out + "}}";
  };
  EXPECT_EQ(posted(members(256)), "a");
  EXPECT_EQ(posted(members(257)), unclear);
  std::string many = "[";
  for (int i = 0; i < 45; ++i) many += (i ? "," : "") + members(256);
  EXPECT_EQ(posted(many + "]"), unclear);
  EXPECT_EQ(posted(R"({"jsonrpc":"","method":")" + std::string(256, 'a') + "\"}"), std::string(256, 'a'));
  EXPECT_EQ(posted(R"({"jsonrpc":"","method":")" + std::string(257, 'a') + "\"}"), unclear);
  EXPECT_EQ(posted(R"({"jsonrpc":"","method":"a","params":[")" + std::string(1 << 20, 'a') + "\"]}"),
            unclear);
  EXPECT_EQ(posted(R"({"jsonrpc":"","method":"a","params":[")" + std::string(1'000'000, 'a') + "\"]}"), "a");
}

TEST(OperationPatterns, AreReadAndMatch) {
  struct PatternCase {
    const char* pattern;
    Operation operation;
    bool matches;
  };
  const PatternCase cases[] = {
      {"query *", {"query", "viewer"}, true},
      {"query *", {"mutation", "viewer"}, false},
      {"mutation createIssue", {"mutation", "createIssue"}, true},
      {"mutation createIssue", {"mutation", "createIssues"}, false},
      {"mutation createIssue", {"mutation", "CreateIssue"}, false},
      {"tools/call search_*", {"tools/call", "search_code"}, true},
      {"tools/call search_*", {"tools/call", "x_search_"}, false},
      {"tools/call search_*", {"tools/call", ""}, false},
      {"tools/call", {"tools/call", "anything"}, true},
      {"tools/list", {"tools/list", ""}, true},
      {"eth_*", {"eth_call", ""}, true},
      {"eth_*", {"debug_eth_", ""}, false},
      {"*", {"anything", "at all"}, true},
  };
  for (const auto& [pattern, operation, matches] : cases)
    EXPECT_EQ(OperationPattern::parse(pattern).value().matches(operation), matches)
        << pattern << " " << operation.text();
  for (const char* wrong : {"", " ", " a", "a ", "a b c", "a*b", "a *b", "**", "a\tb"})
    EXPECT_FALSE(OperationPattern::parse(wrong)) << wrong;
}

}  // namespace
}  // namespace postern::transform
