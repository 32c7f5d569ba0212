"""Errors of servers in their own words: whose fault each is, and what is learned from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentopt_local.models.refusals import Kind, kind_of
from agentopt_local.models.server_error import READ, Refusal, read_refusal
from agentopt_local.models.waiting import asked_wait_s


def said(status: int, body: Any, **headers: str) -> Refusal:
    """The refusal in an answer; ``body``: a message as OpenAI sends it, or any JSON, or text after "text:"."""
    if isinstance(body, str):
        text = body.removeprefix("text:") if body.startswith("text:") else json.dumps({"error": {"message": body}})
    else:
        text = json.dumps(body)
    return read_refusal(status, text, {name.replace("_", "-"): value for name, value in headers.items()}, str)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


CONTEXT = (
    # E10
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` "
                    "tokens and 20 `max_new_tokens`", "error_type": "validation"}),
    (400, "This model's maximum context length is 4096 tokens. However, you requested 5012 tokens (12 in the messages, "
          "5000 in the completion). Please reduce the length of the messages or completion."),
    (400, {"object": "error", "message": "The decoder prompt (length 5000) is longer than the maximum model length of "
                                         "4096. Make sure that `max_model_len` is no smaller", "code": 400}),
    (400, error("'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is "
                "4096 tokens and your request has 12 input tokens (5000 > 4096 - 12).", param="max_tokens")),
    (400, "max_tokens must be at least 1, got -904."),
    (400, {"object": "error", "message": "The input (5000 tokens) is longer than the model's context length (4096 "
                                         "tokens).", "type": "BadRequestError", "code": 400}),
    (400, "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens). Use a shorter input."),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it",
                     "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}}),
    (500, error("context size exceeded", type="server_error", code=500)),
    (400, {"error": "The number of tokens to keep from the initial prompt is greater than the context length."}),
    (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded "
                    "with context length of only 4096 tokens, which is not enough."}),
    (500, {"error": {"message": "the input length exceeds the context length", "type": "api_error"}}),
    (400, "Requested tokens (5000) exceed context window of 4096"),
    (400, error("Your input exceeds the context window of this model.", code="context_length_exceeded")),
    (400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens."),
    (400, error("Invalid 'messages[0].content': string too long.", code="string_above_max_length",
                param="messages[0].content")),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or "
          "`max_tokens` and try again"),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The input token count (1196265) exceeds "
                      "the maximum number of tokens allowed (1048575)."}}]),
    (400, {"object": "error", "type": "invalid_request_prompt", "code": "3051", "message": "Prompt contains 40000 "
           "tokens and 0 draft tokens, too large for model with 32768 maximum context length"}),
    (422, {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."}),
    (400, error("Please reduce the length of the messages or completion.", code="context_length_exceeded")),
    (400, "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192"),
    (400, "The prompt is too long: 10000, model maximum context length: 8191"),
    (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
    (400, error("prompt token count of 5000 exceeds the limit of 4096", code="model_max_prompt_tokens_exceeded")),
    (413, error("Request body too large for gpt-4 model. Max size: 8000 tokens.", code="tokens_limit_reached")),
    (400, {"message": "too many tokens: total number of tokens in the prompt exceeds the limit of 4081"}),
    (400, "Input is too long for requested model."),
    (400, "invalid params, context window exceeds limit (2013)"),
    (400, "Invalid request: Your request exceeded model token limit: 8192"),
    (400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]"),
    (400, error("Prompt exceeds max length", code="1261")),
    (400, "the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model"),
    (400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {"provider_name": "P", "raw":
           json.dumps({"error": {"message": "This endpoint's maximum context length is 32768 tokens."}})}}}),
    (500, "litellm.ContextWindowExceededError: prompt is too long: 209303 tokens > 200000 maximum"),
    (200, {"error": {"message": "This endpoint's maximum context length is 32768 tokens.", "code": 400}}),
    (200, {"error": "maximum context length is 4096 tokens"}),
    (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"}),
    (400, "The sum of prompt length (5000.0), query length (0) and max_tokens (20) should not exceed 4096"),
    (400, {"code": 20015, "message": "length of prompt_tokens (40960) must be less than max_seq_len (32768)."}),
    (400, "the prompt has 5000 tokens, which is more than the 4096 tokens that the model can take"),
    (400, "prompt_too_long: The prompt is 5,012 tokens; the limit is 4,096"),
    (400, "The prompt (5000 tokens) does not fit in the context (4096)"),
    (422, {"detail": [{"type": "value_error", "loc": ["body", "messages"], "msg": "Prompt length 5000 exceeds maximum "
                       "model length 4096", "input": [{"role": "user", "content": "rate limit"}]}]}),
)  # fmt: skip
CONTENT = (
    (400, error("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "Output blocked by content filtering policy"}}),
    (400, error("This request has been flagged", code="content_policy_violation")),
    (200, error("prompt was blocked", code="content_filter")),
    (403, {"error": {"code": 403, "message": "m requires moderation on p. Your input was flagged for violence.",
                     "metadata": {"reasons": ["violence"], "flagged_input": "..."}}}),
    (413, "text:<html><head><title>413 Request Entity Too Large</title></head></html>"),
    (429, error("Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Requested 40000.",
                type="tokens", code="rate_limit_exceeded")),
    (451, "content_filter"),
    (400, {"contentFilter": [{"level": 1}], "error": {"code": "1301", "message": "输入可能包含敏感内容"}}),
    (400, error("Your request was rejected as a result of our safety system.", code="moderation_blocked")),
    (400, "Guardrail blocked the request: prompt injection detected"),
    (200, {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}, "choices": None}),
)  # fmt: skip
OVERLOADED = (
    (429, error("Rate limit reached for model m on tokens per minute (TPM): Limit 6000. Please try again in 7.66s.")),
    (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota, please "
            "check your plan and billing details.", "details": [{"@type": "RetryInfo", "retryDelay": "28s"}]}}]),
    (429, {"message": "Service tier capacity exceeded for this model.", "type": "service_tier_capacity_exceeded"}),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
    (429, "Too many tokens, please wait before trying again."),
    (424, {"error": "Request failed during generation: Server error", "error_type": "generation"}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
    (498, "Flex tier capacity exceeded"),
    (400, {"__type": "ThrottlingException", "message": "Too many requests", "code": "ThrottlingException"}),
    (400, error("try later", type="rate_limit_error")),
    (500, "text:<html><body>oops</body></html>"),
    (520, "text:"),
    (200, error("Provider returned error", code=429, metadata={"error_type": "rate_limit_exceeded"})),  # E4
    (200, error("Provider returned error", code=502)),
    (200, error("upstream died")),
    (429, error("Resource has been exhausted (e.g. check quota).", code=429, status="RESOURCE_EXHAUSTED")),
    (429, error("Throttling.AllocationQuota: Allocated quota exceeded", code="limit_requests")),
    (502, "Upstream returned an invalid response format"),
    (503, "Service Unavailable: model is not available, try later"),
    (200, {"error": "no"}),
    (200, {"error": {"type": "overloaded_error"}}),
)  # fmt: skip
QUOTA = (
    (402, error("Insufficient Balance", type="unknown_error", code="invalid_request_error")),
    (429, error("You exceeded your current quota, please check your plan and billing details.",
                type="insufficient_quota", code="insufficient_quota")),
    (429, error("You have no credits remaining", type="insufficient_quota", code="credit_balance_exhausted")),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "Your credit balance is too low to access the Anthropic API."}}),
    (412, "Account is suspended, possibly due to reaching the monthly spending limit"),
    (429, error("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day")),
    (429, error("The usage limit has been reached", type="usage_limit_reached")),
    (400, error("Access denied, please make sure your account is in good standing.", code="Arrearage")),
    (400, error("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    (403, error("Key limit exceeded (total limit). Manage it using https://server.invalid/keys", code=403)),
    (429, error("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", type="budget_exceeded", code="429")),
    (400, "ExceededBudget: Crossed spend within key"),
    (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试。"}}),
)  # fmt: skip
OTHERS: tuple[tuple[Kind, int, Any], ...] = (
    ("key", 401, {"detail": "Unauthorized"}),
    ("key", 401, {"statusCode": 401, "message": "Access denied due to invalid subscription key"}),
    ("key", 400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                             "details": [{"reason": "API_KEY_INVALID"}]}}]),
    ("key", 401, "Your account was flagged because it violates our usage policies"),
    ("other", 403, error("Country, region, or territory not supported", code="unsupported_country_region")),  # E12
    ("missing", 404, error("The model `x` does not exist", code="model_not_found")),
    ("missing", 404, {"error": {"message": 'model "x" not found, try pulling it first', "type": "api_error"}}),
    ("missing", 404, "No endpoints found matching your data policy"),
    ("request", 404, "No endpoints found that support tool use."),
    ("request", 400, "registry.ollama.ai/library/x:latest does not support tools"),  # E6
    ("request", 500, {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}}),
    ("request", 500, {"error": {"code": 500, "message": "Unsupported param: tools", "type": "server_error"}}),
    ("request", 400, "`temperature` and `top_p` cannot both be specified for this model."),  # E7
    ("request", 400, "JSON schema conversion failed: unresolved $ref"),  # E9
    ("request", 400, "max_tokens is too large: 6000. This model supports at most 4096 completion tokens, whereas you "
                     "provided 6000."),
    ("request", 400, "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for m"),
    ("request", 400, error("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is "
                           "less than the `context_window` for this model", param="max_tokens")),
    ("request", 400, error("Invalid 'messages[3].tool_calls[0].id': string too long. Expected a string with maximum "
                           "length 40", param="messages[3].tool_calls[0].id", code="string_above_max_length")),
    ("request", 404, "No endpoints found that can handle the requested parameters."),
    ("request", 404, "Tool use isn't available for this model"),
    ("request", 500, {"error": {"message": "failed to load model vocabulary required for format"}}),
    ("request", 500, "failed to parse grammar"),
    ("missing", 404, error("models/g is not found for API version v1main, or is not supported for generateContent.",
                           code=404, status="NOT_FOUND")),
    ("missing", 404, "This is not a chat model and thus not supported in the v1/chat/completions endpoint."),
    ("cut", 400, "Could not finish the message because max_tokens or model output limit was reached."),
    ("request", 400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
    ("request", 400, "Range of max_tokens should be [1, 8192]"),
    ("request", 400, error("Invalid 'tools[0].function.name': string too long. Expected maximum length 64",
                           param="tools[0].function.name")),
    ("request", 400, "Invalid model name passed in model=x"),
    ("request", 400, error("nonsense", param="temperature", code="unsupported_parameter")),
    ("request", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not "
                      "permitted", "input": "the prompt is too long: context length"}]}),
    ("request", 400, "Conversation roles must alternate user/assistant/user/assistant/..."),
    ("request", 400, "messages: text content blocks must be non-empty"),
    ("sampled", 400, error("Failed to call a function. See 'failed_generation'.", code="tool_use_failed",
                           failed_generation="f(1)")),
    ("moved", 308, "text:"),
    ("timeout", 504, "text:<html>Gateway Time-out</html>"),
    ("timeout", 408, "text:"),
)  # fmt: skip
CASES = [
    *(("context", *each) for each in CONTEXT),
    *(("content", *each) for each in CONTENT),
    *(("overloaded", *each) for each in OVERLOADED),
    *(("quota", *each) for each in QUOTA),
    *OTHERS,
]


@pytest.mark.parametrize(("kind", "status", "body"), CASES)
def test_whose_fault_an_error_is(kind: Kind, status: int, body: Any) -> None:
    refusal = said(status, body)
    assert kind_of(refusal) == kind, refusal
    assert refusal.shown


def test_all_words_are_shown_whatever_their_form() -> None:
    deep = {"error": {"message": "Provider returned error", "metadata": {"raw": '{"detail": [{"loc": ["body", "seed"], '
            '"msg": "no seed"}]}'}}}  # fmt: skip
    assert said(400, deep).shown == "Provider returned error | no seed | body.seed"
    assert said(400, "text:<html><style>a{b}</style><h1>Bad</h1>\n<p>Request").shown == "Bad Request"
    assert said(400, {"message": {"detail": [{"msg": "x"}]}}).shown == "x"
    assert said(500, "text:").shown == "status 500, without a word"
    assert len(said(400, "a b " * 10_000).shown) <= 500


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 1000, '{"error": ' * 900, "null", "1e999", '"x"', "\x00\ud800", "[]", "[[[]]]", "{}",
     "x" * (READ * 2)],
)  # fmt: skip
def test_no_body_is_too_odd_to_be_read(text: str) -> None:
    for status in (200, 400, 429, 500):
        assert kind_of(read_refusal(status, text, {}, str))


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "12"}, 12, 12),
        ({"Retry-After": " 1.5 "}, 1.5, 1.5),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, 1.5),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 1e9, 1e13),  # DEFECTS 13
        ({"Retry-After": "9" * 300}, 1e9, float("inf")),
    ],
)
def test_a_wait_is_read_in_all_its_forms(headers: dict[str, str], least: float, most: float) -> None:
    wait_s = asked_wait_s(headers)
    assert wait_s is not None
    assert least <= wait_s <= most


@pytest.mark.parametrize(
    "garbage",
    ["", "soon", "-5", "nan", "inf", "1e400", "1_000", "٣", "9" * 5000, "Fri, 99 Zzz 99999999999 99:99:99 GMT",
     "Tue, 1 Jan 2030 00:00:00 +99999999", "0x10", "1;2", "12 seconds", "None"],
)  # fmt: skip
def test_garbage_is_no_wait(garbage: str) -> None:
    assert asked_wait_s({"Retry-After": garbage}) is None
