"""The URLconf of a test process that has not put its own there yet."""

urlpatterns: list[object] = []
